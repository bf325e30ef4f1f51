"""A whole partition is read from real nodes: what is promised, and when it is refused."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray.core import pages
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.settings import Settings, settings_from
from dynamo_ray.core.sweep import Ask, Page
from dynamo_ray.core.version import decode, values
from dynamo_ray.errors import UnavailableError
from dynamo_ray.sweep import Reader, reading
from tests.server.loopback import Loopback, run, until

ONE = Settings(partitions=1)


async def all_of(reader: Reader) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for partition in range(reader.charter.settings.partitions):
        async for rows in reader.states(partition):
            assert not found.keys() & set(rows.keys)
            assert {partition_of(key, reader.charter.settings.partitions) for key in rows.keys} == {
                partition
            }
            found |= dict(zip(rows.keys, rows.states, strict=True))
    return found


async def read_all(cluster: Loopback) -> dict[bytes, bytes]:
    client = await cluster.connect()
    async with reading(client.session, cluster.credentials) as reader:
        return await all_of(reader)


def test_states_are_read_in_pages_and_are_what_the_nodes_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COPY_KEYS", 7)

    async def story() -> None:
        async with Loopback(tmp_path, settings=Settings(partitions=4)) as cluster:
            client = await cluster.connect()
            keys = [os.urandom(1 + i % 40) for i in range(200)]
            await client.put_many(dict.fromkeys(keys, b"x"), w=3)
            await client.delete(keys[0], w=3)
            found = await read_all(cluster)
            assert found.keys() == set(keys)
            for key, state in found.items():
                assert state in cluster.states_of(key).values()

    run(story())


def test_what_stand_ins_keep_is_read_and_w_missing_nodes_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, settings=ONE) as cluster:
            client = await cluster.connect()
            first, second, _ = cluster.owners_of(b"k")
            await cluster.kill_node(first)
            await client.put("k", b"v")
            assert (await read_all(cluster)).keys() == {b"k"}
            await cluster.kill_node(second)
            with pytest.raises(UnavailableError, match=r"3 of 5 nodes .* fewer than 4") as caught:
                await read_all(cluster)
            assert (caught.value.required, caught.value.alive) == (4, 3)

    run(story())


def test_a_node_that_cannot_prove_its_log_complete_does_not_count(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=ONE) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v", w=3)
            await cluster.kill_node("n1")
            assert await read_all(cluster)
            cluster.nodes["n2"].node.replica.doubted = frozenset({0})
            assert cluster.nodes["n2"].node.replica.doubted, "one other owner proves nothing"
            with pytest.raises(UnavailableError, match="1 of 3 nodes"):
                await read_all(cluster)

    run(story())


def test_a_node_that_comes_back_is_asked_for_the_next_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_ray.asking.AGAIN_S", 0.0)

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=Settings(partitions=2)) as cluster:
            client = await cluster.connect()
            async with reading(client.session, cluster.credentials) as reader:
                await cluster.kill_node("n1")
                assert not [rows async for rows in reader.states(0)]
                assert reader.missing == {cluster.charter.member("n1").node}
                await cluster.start_node("n1")
                await cluster.settled()
                await cluster.kill_node("n2")
                assert not [rows async for rows in reader.states(1)], "or two would be missing"

    run(story())


def test_large_states_come_in_pages_that_fit_a_frame(tmp_path: Path) -> None:
    limits = {"value_bytes": 4096, "sibling_bytes": 8192, "batch_bytes": 8192, "frame_bytes": 16384}
    settings = settings_from({"partitions": 1, "limits": limits})

    async def story() -> None:
        async with Loopback(tmp_path, nodes=3, settings=settings) as cluster:
            client = await cluster.connect()
            for i in range(25):
                await client.put(f"k{i}", b"v" * 3000, w=3)
            found = await read_all(cluster)
            assert len(found) == 25
            assert all(len(values(decode(state))[0]) == 3000 for state in found.values())

    run(story())


@pytest.mark.parametrize(("page_keys", "when"), [(200, 1), (7, 1), (7, 2), (7, 3)])
def test_keys_that_go_home_while_they_are_read_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_keys: int, when: int
) -> None:
    """A stand-in lets go of what it kept at the worst moment: between two questions.

    Before the `when`-th: after the stand-ins were read and before the owners, or between windows,
    when the owners had their keys in order already.
    """
    monkeypatch.setattr(pages, "COPY_KEYS", page_keys)

    async def story() -> None:
        async with Loopback(tmp_path, settings=ONE) as cluster:
            client = await cluster.connect()
            lost, first, second = cluster.owners_of(b"k")
            before = [b"k%d before" % i for i in range(50)]
            await client.put_many(dict.fromkeys(before, b"v"), w=3)
            await cluster.kill_node(first)
            await cluster.kill_node(second)
            keys = [b"k%d" % i for i in range(50)]
            await client.put_many(dict.fromkeys(keys, b"v"))
            await until(lambda: cluster.hints() == 100)
            stand_ins = {cluster.charter.member(name).node for name in cluster.nodes} - {
                cluster.charter.member(lost).node
            }
            for name in set(cluster.nodes) - {lost}:
                deliver = cluster.nodes[name].node.replica.on_tick
                held = partial(hold, deliver, cluster)
                monkeypatch.setattr(cluster.nodes[name].node.replica, "on_tick", held)
            await cluster.start_node(first)
            await cluster.start_node(second)
            await cluster.kill_node(lost)
            read_page, questions = Reader._page, dict[Any, int]()

            async def page(reader: Reader, kind: int, partition: int, ask: Ask) -> Page | None:
                question = questions.setdefault((ask.node in stand_ins, ask.after), len(questions))
                if question == when:
                    vars(cluster)["home"] = True
                    await until(lambda: cluster.hints() == 0)
                return await read_page(reader, kind, partition, ask)

            monkeypatch.setattr(Reader, "_page", page)
            assert sorted(await read_all(cluster)) == sorted(keys + before)
            assert cluster.hints() == 0, "or the test shows nothing"

    def hold(deliver: Any, cluster: Loopback, *args: Any) -> list[Any]:
        return deliver(*args) if "home" in vars(cluster) else []

    run(story())
