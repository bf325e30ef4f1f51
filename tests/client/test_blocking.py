"""The synchronous client in the places where programs use one: threads, loops, forks, pickles."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import dynamo_ray
from dynamo_ray.connecting import connect
from tests.client.contract import fresh
from tests.server.loopback import Threaded, run, until

THREAD = "dynamo_ray-client"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    with Threaded(tmp_path_factory.mktemp("blocking"), nodes=3) as threaded:
        yield threaded


@pytest.fixture
def client(cluster: Threaded) -> Iterator[dynamo_ray.Client]:
    with connect(address=cluster.address, token=cluster.cluster.token) as connected:
        yield connected


def loops() -> int:
    """How many clients' threads there are."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


def wait_for_loops(count: int) -> None:
    deadline = time.monotonic() + 5
    while loops() != count:
        assert time.monotonic() < deadline, f"{loops()} threads, not {count}"
        time.sleep(0.01)


def test_sixteen_threads_share_a_client(client: dynamo_ray.Client) -> None:
    name, hot = fresh(), fresh("hot")

    def work(number: int) -> None:
        for i in range(25):
            key = f"{name}:{number}:{i}"
            client.put(key, b"%d" % i)
            client.put(hot, b"%d" % number)
            assert client.get(key).value == b"%d" % i
        mine = [f"{name}:{number}:{i}" for i in range(25)]
        assert [found.value for found in client.get_many(mine).values()] == [
            b"%d" % i for i in range(25)
        ]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16), timeout=20))
    assert len(client.get(hot).values) == 1, "blind puts replace what the minting node holds"


def test_it_works_inside_a_running_loop(client: dynamo_ray.Client) -> None:
    key = fresh()

    async def inside() -> bytes | None:
        client.put(key, b"x")
        return client.get(key).value

    assert asyncio.run(inside()) == b"x"


def test_what_update_calls_may_use_the_client(client: dynamo_ray.Client) -> None:
    key, other = fresh(), fresh()
    client.put(other, b"other")
    client.update(key, lambda value: client.get(other, timeout_s=5).value)
    assert client.get(key).value == b"other"


def test_its_own_loop_cannot_wait_for_it(client: dynamo_ray.Client) -> None:
    inside = client._inside()
    ended: list[BaseException] = []

    async def call() -> None:
        try:
            client.get("key")
        except RuntimeError as error:
            ended.append(error)

    inside.run(call())
    assert "wait for itself" in str(ended[0])


def test_it_works_after_a_fork(client: dynamo_ray.Client) -> None:
    key = fresh()
    client.put(key, b"parent")
    pid = os.fork()
    if not pid:
        status = 1
        try:
            same = client.get(key).value == b"parent"
            client.put(key, b"child")
            client.with_options(r=3).get(key)
            gc.collect()
            status = 0 if same else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 10
    ended = (0, 0)
    while ended[0] == 0 and time.monotonic() < deadline:
        ended = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if not ended[0]:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert ended == (pid, 0)
    assert client.get(key).value == b"child", "the parent's connections still work"


def test_a_fork_may_close_what_it_inherited(client: dynamo_ray.Client) -> None:
    client.put("key", b"x")
    pid = os.fork()
    if not pid:
        status = 1
        try:
            client.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.get("key").value == b"x"


def test_a_pickled_client_comes_back_with_its_options(client: dynamo_ray.Client) -> None:
    key = fresh()
    resolving = client.with_options(r=3, w=3, resolver=dynamo_ray.last_write_wins, timeout_s=5)
    with pickle.loads(pickle.dumps(resolving)) as back:
        back.put(key, b"a")
        back.put(key, b"b", dynamo_ray.CONCURRENT)
        assert back.get(key).value in (b"a", b"b")
        assert back._options["r"] == 3
    assert client.get(key).found, "the one that was pickled is another one"


def test_a_client_that_cannot_come_back_says_so(client: dynamo_ray.Client) -> None:
    alone = dynamo_ray.Client(client._opener)
    with alone, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(alone)


def test_nobody_waits_for_a_closed_client(cluster: Threaded) -> None:
    client = connect(address=cluster.address, token=cluster.cluster.token)
    name, ends, begun = fresh(), [], threading.Barrier(9)

    def work(number: int) -> None:
        begun.wait()
        try:
            for i in range(100_000):
                client.put(f"{name}:{number}:{i % 100}", b"x")
        except dynamo_ray.ClosedError as error:
            ends.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.1)
    began = time.monotonic()
    client.close()
    for thread in threads:
        thread.join(5)
    assert len(ends) == 8
    assert time.monotonic() - began < 4


def test_a_hanging_call_ends_when_its_client_is_closed(client: dynamo_ray.Client) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    inside = client._inside()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inside.run, never())
        client.close(0)
        with pytest.raises(dynamo_ray.ClosedError, match="may have been applied"):
            waiting.result(5)
    with pytest.raises(dynamo_ray.ClosedError):
        inside.run(never())


def test_the_thread_ends_with_the_last_copy(cluster: Threaded) -> None:
    gc.collect()
    before = loops()
    client = connect(address=cluster.address, token=cluster.cluster.token)
    copy = client.with_options(r=1)
    assert loops() == before + 1
    del client
    gc.collect()
    assert copy.get(fresh()).value is None
    del copy
    gc.collect()
    wait_for_loops(before)


def test_a_failed_connection_leaves_no_thread(cluster: Threaded) -> None:
    before = loops()
    with pytest.raises(dynamo_ray.AuthenticationError):
        connect(address=cluster.address, token="drc1.nonsense")
    wait_for_loops(before)


PROGRAM = """
import sys, dynamo_ray
client = dynamo_ray.connect(address=sys.argv[1], token=sys.argv[2])
client.put("from a program", b"x")
print(client.get("from a program").value)
{end}
assert "ray" not in sys.modules and "pyarrow" not in sys.modules
"""


@pytest.mark.parametrize("end", ["", "client.close()", "del client"])
def test_a_program_ends_quietly(cluster: Threaded, end: str) -> None:
    """Also one that never closes its client; and none of this loads Ray or Arrow."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM.format(end=end)]
        + [cluster.address[0], cluster.cluster.token],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'x'\n", "")


def test_an_async_client_ends_quietly(cluster: Threaded) -> None:
    async def work() -> None:
        where = {"address": cluster.address, "token": cluster.cluster.token}
        async with await dynamo_ray.connect_async(**where) as client:
            await client.put(fresh(), b"x")
        await until(lambda: len(asyncio.all_tasks()) == 2)  # this one, and the one that bounds it

    run(work())
