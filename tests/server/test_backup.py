"""Backups of real nodes, and restoring by merge: nothing newer is lost, nothing deleted returns."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from dynamo_ray import backup as backups
from dynamo_ray.backup import Backup, create, listing, opened, verify
from dynamo_ray.core.messages import Code, Merge, Refused
from dynamo_ray.core.ring import partition_of
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.version import decode
from dynamo_ray.errors import (
    BackupError,
    BackupNotFoundError,
    BackupRefusedError,
    UnavailableError,
)
from dynamo_ray.found import CONCURRENT
from dynamo_ray.restoring import Comparison, Inside, Restored, restore
from dynamo_ray.storage import archive
from dynamo_ray.storage.sealed import seal, unseal
from dynamo_ray.sweep import Reader
from tests.server.loopback import Loopback, run

SMALL = Settings(partitions=8)


def silent(*_: int) -> None:
    pass


async def back_up(cluster: Loopback, where: Path) -> Path:
    client = await cluster.connect()
    made = await create(client.session, cluster.credentials, str(where), "1.2.3", silent)
    return where / made.name


async def restored(cluster: Loopback, where: Path, dry_run: bool = False) -> Restored:
    inside = Inside(cluster.charter, cluster.view(), cluster.secrets)
    return await restore(inside, *opened(str(where)), silent, dry_run)


def reseal(where: Path, **changes: Any) -> None:
    file = where / "MANIFEST"
    content = unseal(file.read_bytes())
    file.write_bytes(seal({**content, **changes}))


def a_file(where: Path) -> Path:
    return sorted(where.glob("p*.arrow"))[0]


def test_a_backup_says_what_is_in_it_and_whose_it_is(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path / "a", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({f"k{i}": b"v" * 100 for i in range(500)}, w=3)
            await client.put("k0", b"other", context=CONCURRENT, w=3)
            await client.delete("k1", w=3)
            where = await back_up(cluster, tmp_path / "backups")
            folder, made = opened(str(where))
            assert (made.counts.keys, made.counts.values, made.counts.tombstones) == (500, 500, 1)
            assert made.bytes == sum(file.stat().st_size for file in where.glob("*.arrow"))
            origin = made.origin
            assert (origin.cluster, origin.version) == ("loopback", "1.2.3")
            assert origin.cluster_id == cluster.charter.cluster_id.hex()
            assert (origin.n, origin.r, origin.w, origin.partitions) == (3, 2, 2, 8)
            assert origin.complete == ["n1", "n2", "n3", "n4", "n5"] and not origin.missing
            assert abs(origin.created_ms / 1000 - time.time()) < 60
            assert verify(folder, made, silent) == {}
            [listed] = listing(str(tmp_path / "backups"))
            assert (listed.name, listed.state, listed.backup) == (where.name, "whole", made)
            again = await back_up(cluster, tmp_path / "backups")
            assert again.name != where.name and len(listing(str(tmp_path / "backups"))) == 2

    run(story())


@pytest.mark.parametrize(("nodes", "partitions"), [(3, 8), (7, 32), (4, 2)])
def test_restored_into_another_cluster_of_any_size(
    tmp_path: Path, nodes: int, partitions: int
) -> None:
    async def story() -> None:
        values = {f"k{i}": b"v%d" % i for i in range(300)}
        async with Loopback(tmp_path / "a", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many(values, w=3)
            await client.put("twice", b"one", w=3)
            await client.put("twice", b"two", context=CONCURRENT, w=3)
            await client.put("gone", b"x", w=3)
            await client.delete("gone", w=3)
            where = await back_up(cluster, tmp_path / "backups")
        settings = Settings(partitions=partitions)
        async with Loopback(tmp_path / "b", nodes=nodes, settings=settings) as cluster:
            compared = await restored(cluster, where, dry_run=True)
            assert compared.comparison == Comparison(new=302)
            assert not any(server.node.replica.maps[0] for server in cluster.nodes.values())
            assert await restored(cluster, where) == Restored(302, [])
            client = await cluster.connect()
            found = await client.get_many([*values, "twice", "gone"], strict=True)
            assert {key: found[key].value for key in values} == values
            assert set(found["twice"].values) == {b"one", b"two"} and not found["gone"].found
            for key in values:
                owners = set(cluster.owners_of(key.encode()))
                states = cluster.states_of(key.encode())
                assert {name for name, state in states.items() if state is not None} == owners
            compared = await restored(cluster, where, dry_run=True)
            assert compared.comparison == Comparison(covered=302)
            for key, value in values.items():  # whoever was in the backup mints on top of it
                await client.put(key, value + b"+")
            found = await client.get_many(list(values), strict=True)
            assert {key: found[key].value for key in values} == {
                key: value + b"+" for key, value in values.items()
            }

    run(story())


def test_an_old_backup_over_newer_data_loses_nothing_and_brings_nothing_back(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with Loopback(tmp_path / "a", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({"same": b"1", "newer": b"1", "deleted": b"1"}, w=3)
            where = await back_up(cluster, tmp_path / "backups")
            await client.put("newer", b"2", w=3)
            await client.delete("deleted", w=3)
            await client.put("later", b"1", w=3)
            compared = await restored(cluster, where, dry_run=True)
            assert compared.comparison == Comparison(covered=3)
            await restored(cluster, where)
            found = await client.get_many(["same", "newer", "deleted", "later"], strict=True)
            assert found["same"].values == (b"1",) and found["newer"].values == (b"2",)
            assert not found["deleted"].found and found["later"].values == (b"1",)

    run(story())


def test_a_comparison_tells_older_and_concurrent_from_covered(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path / "a", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({"old": b"1", "both": b"1"}, w=3)
            first = await back_up(cluster, tmp_path / "backups")
            await client.put("old", b"2", w=3)
            second = await back_up(cluster, tmp_path / "backups")
        async with Loopback(tmp_path / "b", settings=SMALL) as cluster:
            client = await cluster.connect()
            await restored(cluster, first)
            await client.put("both", b"here", context=CONCURRENT, w=3)
            other = await cluster.connect()
            await other.put("new here", b"x", w=3)
            compared = await restored(cluster, second, dry_run=True)
            assert compared.comparison == Comparison(newer_in_backup=1, covered=1)
        async with Loopback(tmp_path / "c", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put("both", b"there", w=3)
            compared = await restored(cluster, second, dry_run=True)
            assert compared.comparison == Comparison(new=1, concurrent=1)
            await restored(cluster, second)
            assert set((await client.get("both", strict=True)).values) == {b"1", b"there"}

    run(story())


def test_a_put_after_a_restore_is_not_swallowed(tmp_path: Path) -> None:
    """The node forgot the key's later events, and the backup brings its earlier ones back.

    Were it to go on counting there, another owner that still has the later events would take the
    new event for one of those.
    """

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=3, settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put("k", b"1", w=3)
            where = await back_up(cluster, tmp_path / "backups")
            for value in (b"2", b"3", b"4"):
                await client.put("k", value, w=3)
            await cluster.compared()  # or another owner gives back what is forgotten here
            state = next(iter(cluster.states_of(b"k").values()))
            [version] = decode(state or b"").versions
            minter = next(s for s in cluster.nodes.values() if version.dot.writer.startswith(s.me))
            replica = minter.node.replica
            del replica.maps[partition_of(b"k", 8)][b"k"]  # as when it is reaped, or moved away
            replica.lives.forget(b"k")
            await restored(cluster, where)
            held = decode(replica.maps[partition_of(b"k", 8)][b"k"])
            assert [v.payload for v in held.versions] == [b"1"], "or the test shows nothing"
            await client.put("k", b"after", w=3)
            found = await client.get("k", r=3, strict=True)
            assert b"after" in found.values
            await client.put("k", b"last", context=found.context, w=3)
            assert (await client.get("k", r=3, strict=True)).values == (b"last",)

    run(story())


def test_w_owners_must_take_it_and_those_that_did_not_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_ray.restoring.RETRY_FOR_S", 0.1)

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=3, settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({f"k{i}": b"v" for i in range(50)}, w=3)
            where = await back_up(cluster, tmp_path / "backups")
        async with Loopback(tmp_path / "b", nodes=3, settings=SMALL) as cluster:
            await cluster.kill_node("n2")
            assert await restored(cluster, where) == Restored(50, ["n2"])
            await cluster.kill_node("n3")
            with pytest.raises(UnavailableError, match="n2, n3 did not") as caught:
                await restored(cluster, where)
            assert (caught.value.required, caught.value.alive) == (2, 1)
            with pytest.raises(UnavailableError):
                await restored(cluster, where, dry_run=True)

    run(story())


def test_a_refusal_that_passes_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=3, settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v", w=3)
            where = await back_up(cluster, tmp_path / "backups")
            refusals = [Refused(code, "not now") for code in (Code.OVERLOADED, Code.NOT_READY)]
            server = cluster.nodes["n1"]
            whole = server._judge_envelope

            def judge(connection: Any, kind: int, fields: list[Any]) -> Refused | None:
                now = kind == Merge.KIND and refusals
                return refusals.pop() if now else whole(connection, kind, fields)

            monkeypatch.setattr(server, "_judge_envelope", judge)
            assert await restored(cluster, where) == Restored(1, []) and not refusals
            refusals.append(Refused(Code.OTHER_EPOCH, "another ring"))
            assert await restored(cluster, where) == Restored(1, []) and not refusals
            refusals.append(Refused(Code.FORBIDDEN, "never"))
            assert await restored(cluster, where) == Restored(1, ["n1"])

    run(story())


def test_no_backup_is_finished_when_w_nodes_are_missing(tmp_path: Path) -> None:
    async def story() -> None:
        async with Loopback(tmp_path / "a", settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put("k", b"v", w=3)
            await cluster.kill_node("n1")
            where = await back_up(cluster, tmp_path / "backups")
            assert opened(str(where))[1].origin.missing == ["n1"]
            await cluster.kill_node("n2")
            with pytest.raises(UnavailableError, match="3 of 5 nodes"):
                await back_up(cluster, tmp_path / "backups")
            states = [one.state for one in listing(str(tmp_path / "backups"))]
            assert sorted(states) == ["unfinished", "whole"]

    run(story())


def test_an_interrupted_backup_ends_at_once_and_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that write wait for what the loop reads: they must not wait for ever."""
    read_page = Reader._page

    async def slowly(reader: Reader, *args: Any) -> Any:
        await asyncio.sleep(0.2)
        return await read_page(reader, *args)

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=3, settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({f"k{i}": b"v" for i in range(50)}, w=3)
            monkeypatch.setattr(Reader, "_page", slowly)
            task = asyncio.create_task(back_up(cluster, tmp_path / "backups"))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [one.state for one in listing(str(tmp_path / "backups"))] == ["unfinished"]

    began = time.monotonic()
    run(story())
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")

    async def story() -> Path:
        async with Loopback(folder / "a", nodes=3, settings=SMALL) as cluster:
            client = await cluster.connect()
            await client.put_many({f"k{i}": b"v" * 50 for i in range(100)}, w=3)
            return await back_up(cluster, folder / "backups")

    return run(story())


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "backups" / made.name))


def test_what_is_damaged_is_named_and_nothing_of_it_is_restored(copy: Path, tmp_path: Path) -> None:
    file = sorted(copy.glob("p*.arrow"))[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    path = f"{copy.name}/{file.name}"
    assert verify(*opened(str(copy)), silent).keys() == {path}

    async def story() -> None:
        async with Loopback(tmp_path / "b", nodes=3, settings=SMALL) as cluster:
            with pytest.raises(BackupRefusedError, match=file.name) as caught:
                await restored(cluster, copy)
            assert caught.value.damaged.keys() == {path}
            assert not any(any(s.node.replica.maps) for s in cluster.nodes.values())

    run(story())


def test_a_file_that_is_missing_or_a_link_is_damaged(copy: Path, made: Path) -> None:
    first, second = sorted(copy.glob("p*.arrow"))[:2]
    first.unlink()
    first.symlink_to(a_file(made))  # the same bytes, but elsewhere
    second.unlink()
    damaged = verify(*opened(str(copy)), silent)
    assert damaged.keys() == {f"{copy.name}/{first.name}", f"{copy.name}/{second.name}"}


def test_a_newer_format_is_refused_by_name(copy: Path) -> None:
    reseal(copy, format=2, tomorrow={})
    with pytest.raises(BackupRefusedError, match="format 2, this version reads 1"):
        opened(str(copy))
    [listed] = listing(str(copy.parent))
    assert listed.state == "newer format" and "format 2" in listed.problem


@pytest.mark.parametrize("name", ["../p00001.arrow", "/p00001.arrow", "p1.arrow", "x/p00001.arrow"])
def test_a_manifest_that_names_other_files_is_refused(copy: Path, name: str) -> None:
    content = unseal((copy / "MANIFEST").read_bytes())
    some = next(iter(content["files"].values()))
    reseal(copy, files={**content["files"], name: some})
    with pytest.raises(BackupRefusedError):
        opened(str(copy))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "something else"},
        {"format": 0},
        {"format": "1"},
        {"files": {"p00001.arrow": [-1.5, "x", 1]}},
        {"files": {"p00008.arrow": [1, "x", 1]}},
        {"files": []},
        {"counts": {"keys": "1"}},
        {"counts": {"keys": 1, "values": 1, "tombstones": -1}},
        {"origin": {}},
    ],
)
def test_a_manifest_with_other_fields_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    reseal(copy, **changes)
    with pytest.raises(BackupRefusedError):
        opened(str(copy))
    assert [one.state for one in listing(str(copy.parent))] == ["damaged"]


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    text = (copy / "MANIFEST").read_text()
    (copy / "MANIFEST").write_text(text.replace('"n": 3', '"n": 4'))
    with pytest.raises(BackupRefusedError, match="checksum"):
        opened(str(copy))


def test_an_unfinished_backup_is_never_used(copy: Path) -> None:
    (copy / "MANIFEST").unlink()
    with pytest.raises(BackupRefusedError, match="never finished"):
        opened(str(copy))


def test_what_is_no_backup_is_not_found(copy: Path, tmp_path: Path) -> None:
    for where in (
        tmp_path / "nowhere" / copy.name,
        copy.parent / "other-20260101T000000Z",
        copy / "x",
    ):
        with pytest.raises(BackupNotFoundError):
            opened(str(where))
    with pytest.raises(BackupNotFoundError):
        listing(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(BackupError, match="no place"):
        listing("nothing://at/all")


def test_a_backup_that_is_a_link_is_refused(copy: Path, made: Path) -> None:
    link = copy.parent / "linked-20260101T000000Z"
    link.symlink_to(made)
    with pytest.raises((BackupError, BackupNotFoundError)):
        opened(str(link))
    assert {one.name: one.state for one in listing(str(copy.parent))}[link.name] == "damaged"


@pytest.mark.parametrize("change", ["key", "order", "state", "hint"])
def test_records_that_no_backup_has_are_damage(copy: Path, change: str) -> None:
    """A file whose checksum fits may still hold what must not be merged in."""
    from dynamo_ray.storage.codec import Record
    from dynamo_ray.storage.places import open_place
    from dynamo_ray.storage.snapshot import write_arrow

    folder, backup = opened(str(copy))
    partition = min(backup.files)
    columns = archive.read_file(folder, backup, partition)
    records = [Record(*row) for row in zip(*columns, strict=True)]
    first = records[0]
    if change == "key":
        elsewhere = next(k for i in range(99) if partition_of(k := b"e%d" % i, 8) != partition)
        records = sorted([*records[1:], first._replace(key=elsewhere)], key=lambda r: r.key)
    elif change == "order":
        records.reverse()
    elif change == "state":
        records[0] = first._replace(state=(first.state or b"") + b"\0")
    else:
        records[0] = first._replace(hints=bytes(8))
    written = write_arrow(open_place(str(copy.parent)), backup.path(partition), records)
    assert written is not None
    files = {f"p{p:05d}.arrow": list(s) for p, s in {**backup.files, partition: written}.items()}
    reseal(copy, files=files)
    assert verify(*opened(str(copy)), silent).keys() == {backup.path(partition)}


def test_what_cannot_be_written_is_said(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    async def story() -> None:
        async with Loopback(tmp_path / "a", nodes=3, settings=SMALL) as cluster:
            with pytest.raises(BackupError):
                await back_up(cluster, tmp_path / "file")

    run(story())


def test_names_are_told_from_places() -> None:
    name = "carts-20260101T000000Z"
    assert backups._parted(f"/a/b/{name}/") == ("/a/b", name)
    assert backups._parted(f"/{name}") == ("/", name)
    assert backups._parted(name) == (".", name)
    assert backups._parted(f"s3://b/x/{name}?region=eu") == ("s3://b/x?region=eu", name)
    assert Backup.__name__ == "Backup"
