"""What a cluster promises and bounds, and the nonsense that is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_ray.core.settings import Limits, Settings, SettingsError, Times, settings_from


def test_the_defaults_are_the_papers_common_ones() -> None:
    settings = Settings()
    assert (settings.n, settings.r, settings.w) == (3, 2, 2)
    assert settings.durability == "written"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 17, "r": 1, "w": 1}, "n is 17"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, "r is 4"),
        ({"w": 4}, "w is 4"),
        ({"n": 1}, "r is 2"),
        ({"partitions": 0}, "partitions is 0"),
        ({"partitions": 65_537}, "partitions is 65537"),
        ({"durability": "maybe"}, "'maybe'"),
        ({"limits": Limits(key_bytes=0)}, "key_bytes"),
        ({"times": Times(tick_s=-1.0)}, "tick_s"),
    ],
)
def test_nonsense_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Settings(**given)


def test_settings_survive_being_written_down() -> None:
    settings = Settings(
        n=5, r=3, w=4, limits=Limits(key_bytes=9), times=Times(tick_s=0.5), durability="synced"
    )
    assert settings_from(settings.to_dict()) == settings
    assert settings_from({}) == Settings()


@pytest.mark.parametrize(
    "given", [{"m": 3}, {"limits": {"keys": 3}}, {"times": {"when": 1}}, {"n": "3"}, {"limits": 7}]
)
def test_a_setting_that_is_not_known_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        settings_from(given)
    assert given  # and what was given is not changed
