"""status, where, ring and version: what only looks."""

from __future__ import annotations

import json
import time

import pytest

from tests.cli.conftest import Command, Ran
from tests.server.loopback import Threaded


def test_a_healthy_cluster_is_0_and_a_line_per_node(dr: Command, carts: Threaded) -> None:
    done = dr("status")
    assert done.code == 0
    text = done.out.decode()
    assert "N=3 R=2 W=2" in text and "HEALTHY" in text
    first = [line.split()[0] for line in text.splitlines()[2:]]
    assert first[:5] == ["n1", "n2", "n3", "n4", "n5"]
    assert set(first[5:]) <= {"c1", "c2"} and first[5:]


def test_status_as_json(dr: Command, carts: Threaded) -> None:
    known = dr("status", "--json").json
    assert known["schema"] == "dynamo_ray.status/1" and known["healthy"]
    assert [node["name"] for node in known["nodes"]] == ["n1", "n2", "n3", "n4", "n5"]
    assert known["partitions_by_copies_up"] == {"3": 256}


def test_a_dead_node_is_9_and_said(dr: Command, fragile: Threaded) -> None:
    fragile.run(fragile.cluster.kill_node("n2"))
    done = dr("status")
    assert done.code == 9
    text = done.out.decode()
    assert "DEGRADED" in text and "n2 is down" in text and "2 of 3 owners up" in text
    copies = dr("status", "--json").json["partitions_by_copies_up"]
    assert copies["2"] > 0 and sum(copies.values()) == 256


def test_waiting_hints_are_9_until_they_are_home(dr: Command, fragile: Threaded) -> None:
    fragile.run(fragile.cluster.kill_node("n2"))
    for i in range(20):
        assert dr("put", f"key-{i}", "v").code == 0
    done = _until(dr, lambda status: "→n2" in status.out.decode())
    assert done.code == 9 and "hints wait" in done.out.decode()
    fragile.run(fragile.cluster.start_node("n2"))
    assert _until(dr, lambda status: status.code == 0).code == 0


def _until(dr: Command, condition: object) -> Ran:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done = dr("status")
        if condition(done):  # type: ignore[operator]
            return done
    return done


def test_watching_goes_on_until_it_is_interrupted(
    dr: Command, carts: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == 3:
            raise KeyboardInterrupt

    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda s, *rest: sleep(s) if s == 0.5 else real(s, *rest))
    done = dr("status", "--watch", "0.5", "--json")
    assert done.code == 130 and len(done.lines) == 3


def test_where_a_key_lives(dr: Command, carts: Threaded) -> None:
    place = dr("where", "cart:1", "--json").json
    assert place["owners"] == carts.cluster.owners_of(b"cart:1")
    assert len(place["stand_ins"]) == 2
    text = dr("where", "cart:1").out.decode()
    assert f"partition  {place['partition']}" in text
    assert " ".join(place["owners"]) in text


def test_a_suspected_owner_is_marked(dr: Command, fragile: Threaded) -> None:
    owner = fragile.cluster.owners_of(b"k")[0]
    fragile.run(fragile.cluster.kill_node(owner))
    deadline = time.monotonic() + 5
    while f"{owner} (suspected)" not in dr("where", "k").out.decode():
        assert time.monotonic() < deadline


def test_the_ring_is_shared_out(dr: Command, carts: Threaded) -> None:
    found = dr("ring", "--json").json
    assert len(found["owners"]) == found["partitions"] == 256
    assert sum(node["slots"] for node in found["nodes"]) == 256 * 3
    assert sum(node["first"] for node in found["nodes"]) == 256
    assert len(dr("ring").out.splitlines()) == 1 + 5
    assert len(dr("ring", "--all").out.splitlines()) == 1 + 5 + 256


def test_version(dr: Command) -> None:
    import dynamo_ray

    assert dr("version", "--json").json["dynamo-ray"] == dynamo_ray.__version__
    assert dr("version").out.startswith(b"dynamo-ray")


def test_output_in_a_pipe_is_plain(dr: Command, carts: Threaded) -> None:
    for arguments in (["status"], ["ring"], ["--help"], ["get", "--help"], ["where", "k"]):
        done = dr(*arguments)
        assert b"\x1b" not in done.out and "\x1b" not in done.err
        assert "│" not in done.out.decode()


def test_colours_are_for_those_who_want_them(
    dr: Command, carts: Threaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert b"\x1b[32mHEALTHY" in dr("status").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert b"\x1b" not in dr("status").out
    assert json.loads(dr("status", "--json").out)
