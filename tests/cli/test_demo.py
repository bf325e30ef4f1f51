"""The demo: on real actors with a real kill; and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import demo as stage
from cli.story import Measures, Story, Teller
from dynamo_ray.errors import BatchError, UnavailableError
from tests.cli.conftest import IN_A_PROCESS, ROOT, Command

TREE = ROOT / "dynamo_ray"
MARK = "DYNAMO_RAY_DEMO_TEST"
GOOD = Measures(
    objects=3, siblings=2, merged_items=3, recovery_s=1.0, hints_home_s=1.5, killed="n2"
)


def running(mark: str) -> list[int]:
    """The processes that carry this test's mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def begin(tmp_path: Path, mark: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS.format(root=str(ROOT)), "demo", *arguments],
        env={**os.environ, MARK: mark, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores interrupts, and its children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.timeout(170)
def test_a_node_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    child = begin(tmp_path, mark, "--json", "--tree", str(TREE))
    try:
        out, err = child.communicate(timeout=150)
    finally:
        child.kill()
    assert child.returncode == 0, err.decode()
    measured = json.loads(out)
    assert measured["ok"] and measured["objects"] > 50
    assert (measured["failed_requests"], measured["lost"]) == (0, 0)
    assert measured["recovery_s"] > 0 and measured["recovery"]["records"] > 0
    assert measured["most_hints"] > 0
    assert (measured["siblings"], measured["merged_items"]) == (2, 3)
    assert running(mark) == [] and list(tmp_path.glob("dynamo-ray-demo-*")) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(170)
@pytest.mark.parametrize(
    "sign, at",
    [
        (signal.SIGINT, b"starting"),
        # It takes the way by which an uninterrupted demo ends, too.
        (signal.SIGTERM, b"up:"),
    ],
)
def test_an_interrupted_demo_leaves_nothing(
    tmp_path: Path, sign: signal.Signals, at: bytes
) -> None:
    mark = secrets.token_hex(8)
    child = begin(tmp_path, mark)
    alarm = threading.Timer(150, child.kill)
    alarm.start()
    try:
        assert child.stderr is not None
        for line in child.stderr:
            if at in line:
                time.sleep(1)
                child.send_signal(sign)
                break
        child.communicate()
    finally:
        alarm.cancel()
    assert child.returncode == 130
    assert running(mark) == [] and list(tmp_path.glob("dynamo-ray-demo-*")) == []


# ---- without a cluster


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_130_and_none_disturbs_the_clearing(
    dr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sign: signal.Signals
) -> None:
    cleared = []

    class Starting:
        def communicate(self, timeout: float) -> None:
            signal.raise_signal(sign)
            raise AssertionError("it was not heard")

    def end(starting: Starting) -> None:
        signal.raise_signal(sign)
        cleared.append(starting)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: Starting())
    monkeypatch.setattr(stage, "_end", end)
    unheard = lambda *_: None  # noqa: E731  # else the signal would end the whole run
    before = signal.signal(sign, unheard)
    try:
        assert dr("demo", "--tree", str(TREE)).code == 130
        assert len(cleared) == 1 and list(tmp_path.glob("dynamo-ray-demo-*")) == []
        assert signal.getsignal(sign) is unheard
    finally:
        signal.signal(sign, before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objects": 0},
        {"lost": 1},
        {"failed_requests": 1},
        {"recovery_s": -1.0},
        {"hints_home_s": -1.0},
        {"siblings": 1},
        {"merged_items": 2},
    ],
)
def test_it_is_only_well_if_everything_is(wrong: dict[str, Any]) -> None:
    fields = {name: getattr(GOOD, name) for name in Measures.__slots__}
    assert GOOD.ok and not Measures(**{**fields, **wrong}).ok


@pytest.mark.parametrize("lost, code", [(0, 0), (1, 1)])
def test_a_loss_is_1_and_is_counted(
    dr: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: int, code: int
) -> None:
    fields = {name: getattr(GOOD, name) for name in Measures.__slots__}
    monkeypatch.setattr(stage, "_play", lambda *given: Measures(**{**fields, "lost": lost}))
    done = dr("demo", "--tree", str(tmp_path))
    assert done.code == code
    assert f"lost writes      {lost}" in done.out.decode()
    shown = dr("demo", "--tree", str(tmp_path), "--json")
    assert (shown.code, shown.json["ok"], shown.json["lost"]) == (code, not lost, lost)


def test_a_tree_that_is_none_is_2(dr: Command, tmp_path: Path) -> None:
    assert dr("demo", "--tree", str(tmp_path / "nowhere")).code == 2


def test_a_write_that_is_lost_or_bent_is_seen() -> None:
    """The comparison itself: with what was acknowledged, by its SHA-256."""
    import asyncio
    from hashlib import sha256

    class Liar:
        async def get_many(self, keys: list[bytes]) -> dict[bytes, Any]:
            values = {b"good": (b"v",), b"bent": (b"w",), b"gone": (), b"two": (b"v", b"w")}
            found = {key: SimpleNamespace(values=values[key]) for key in keys if key in values}
            raise BatchError({b"mute": UnavailableError(2, 1)}, found)

    story = Story([], "", TREE, 1, Teller(0.0))
    keys = [b"good", b"bent", b"gone", b"two", b"mute"]
    story._sums.update((key, sha256(b"v").digest()) for key in keys)
    asyncio.run(story._compare_some(Liar(), keys))  # type: ignore[arg-type]
    assert story.measures.lost == 4
    assert (story.measures.requests, story.measures.failed_requests) == (5, 1)
