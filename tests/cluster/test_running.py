"""What is made of what was seen."""

from __future__ import annotations

from typing import Any

from tests.cluster.running import Watched, all_connected, no_hints, p99s


def said(*suspected: str, hints: bool = False) -> dict[str, Any]:
    nodes = ["n1", "n2"]
    connected = [name for name in nodes if name not in suspected]
    return {"suspected": list(suspected), "connected": connected, "hints": hints}


def watched(*seen: tuple[float, str, dict[str, Any]]) -> Watched:
    watch = Watched()
    watch.seen = list(seen)
    return watch


def test_it_is_told_when_it_was_first_true() -> None:
    watch = watched(
        (1.0, "n1", said()), (2.0, "c1", said("n2")), (5.0, "c1", said()), (6.0, "n1", said("n2"))
    )
    assert watch.first(1.5, all_connected) == 0.0
    assert watch.first(3.0, all_connected) == 2.0
    assert watch.first(5.5, all_connected) == 0.0
    assert watch.first(7.0, all_connected) is None
    assert watched((1.0, "n1", said(hints=True)), (4.5, "n1", said())).first(2.0, no_hints) == 2.5


def test_suspicions_have_a_beginning_and_an_end() -> None:
    watch = watched(
        (1.0, "c1", said("n1")),
        (2.0, "c1", said("n1", "n2")),
        (3.0, "c1", said("n2")),
        (3.5, "n1", said("n2")),
        (4.0, "c1", said()),
        (9.0, "c2", said()),
    )
    assert watch.suspicions(0.0) == [
        (1.0, "c1", "n1", 2.0),
        (2.0, "c1", "n2", 2.0),
        (3.5, "n1", "n2", 5.5),
    ]
    assert watch.suspicions(1.5) == [(0.5, "c1", "n2", 2.0), (2.0, "n1", "n2", 5.5)]


def test_figures_are_of_the_time_that_is_meant() -> None:
    took = [[at / 10, at / 1000, 0.001] for at in range(1000)]
    assert p99s(took) == [990.0, 1.0]
    assert p99s(took, 0.0, 10.0) == [99.0, 1.0]
