"""What a slow cable does to frames; and between two hosts, to what they say to each other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.cluster.cable import MOST_FRAMES, QUEUED_BYTES, Lane, Quality
from tests.cluster.hosts import Host, missing, switched

# The second host: it sends datagrams back, and as many bytes as a line asks for.
ECHO = """
import socket
echo = socket.socket(type=socket.SOCK_DGRAM)
echo.bind(("192.0.2.2", 7))
while True: echo.sendto(*echo.recvfrom(2000))
"""
GIVE = """
import socketserver
class Giving(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(bytes(int(line)))
socketserver.ThreadingTCPServer(("192.0.2.2", 8), Giving).serve_forever()
"""
# The first host: datagrams, each waited for before the next; how long each took, in seconds.
PING = """
import socket, time
ping = socket.socket(type=socket.SOCK_DGRAM)
ping.settimeout(0.1)
for number in range({count}):
    begun = time.monotonic()
    ping.sendto(b"%d" % number, ("192.0.2.2", 7))
    try:
        while ping.recv(2000) != b"%d" % number: pass
        print(time.monotonic() - begun)
    except TimeoutError:
        pass
"""
# And one connection, that asks for {size} bytes again and again for {lasts_s} seconds.
ASK = """
import socket, time
asking = socket.create_connection(("192.0.2.2", 8))
asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
until = time.monotonic() + {lasts_s}
while (begun := time.monotonic()) < until:
    asking.sendall(b"{size}\\n")
    asking.recv({size}, socket.MSG_WAITALL)
    print(time.monotonic() - begun)
    time.sleep(0.01)
"""


def lane(**quality: float) -> Lane:
    return Lane(Quality(**quality), Random(1))


def out(of: Lane, now: float) -> int:
    """How many frames come out until then."""
    return len(of.due(now))


# ---- one way of a line


def test_a_frame_comes_out_after_its_delay_and_not_before() -> None:
    one = lane(delay_s=0.05)
    assert one.due_at is None
    assert one.put(b"a", 1.0)
    assert one.due_at == pytest.approx(1.05)
    assert one.due(1.049) == [] and one.due(1.051) == [b"a"] and one.due_at is None


def test_jitter_makes_it_earlier_or_later_and_keeps_the_order() -> None:
    one, frames = lane(delay_s=0.05, jitter_s=0.01), [b"%d" % n for n in range(500)]
    took = []
    for number, frame in enumerate(frames):
        one.put(frame, number / 10)
        assert one.due_at is not None
        took.append(one.due_at - number / 10)
        assert one.due(one.due_at) == [frame]
    assert 0.04 <= min(took) < 0.042 and 0.058 < max(took) <= 0.06 + 1e-9
    for frame in frames:
        one.put(frame, 60.0)
    assert [frame for ms in range(60_000, 60_100) for frame in one.due(ms / 1000)] == frames


def test_loss_is_of_that_share() -> None:
    one = lane(loss=0.1)
    for number in range(5000):
        one.put(b"a", float(number))
    assert 450 < 5000 - out(one, 1e9) < 550


def test_a_narrow_line_takes_frames_one_by_one_and_drops_what_it_cannot_keep() -> None:
    one, frame = lane(bytes_a_s=100_000, delay_s=0.01), bytes(1000)
    kept = sum(one.put(frame, 0.0) for _ in range(200))
    assert kept == QUEUED_BYTES // 1000 + 1
    assert out(one, 0.0199) == 0 and out(one, 0.0201) == 1 and out(one, 0.0501) == 3
    assert out(one, 10.0) == kept - 4
    assert one.put(frame, 10.0) and one.due_at == pytest.approx(10.02)


def test_a_lane_is_bounded() -> None:
    one = lane(delay_s=1.0)
    assert sum(one.put(b"a", 0.0) for _ in range(MOST_FRAMES + 5)) == MOST_FRAMES


# ---- between hosts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    """Two hosts; the second one answers."""
    if lacks := missing():
        pytest.skip(f"this test needs {'; '.join(lacks)}")
    folder = tmp_path_factory.mktemp("hosts")
    with switched(folder, {"one": "192.0.2.1", "two": "192.0.2.2"}) as hosts:
        for number, program in enumerate((ECHO, GIVE)):
            (hosts["two"].folder / f"tmp/{number}.py").write_text(program)
            hosts["two"].run(f"python /tmp/{number}.py > /tmp/{number}.log 2>&1 &")
        yield list(hosts.values())


def tell(host: Host, program: str) -> list[float]:
    """What a program there wrote, as numbers."""
    return [float(word) for word in host.run(f"python -c '{program}'").split()]


@pytest.mark.cluster
@pytest.mark.slow
def test_a_slow_link_is_late_each_way(pair: list[Host]) -> None:
    one, _ = pair
    program = PING.format(count=10).replace("0.1", "1")
    with one.slow(Quality(delay_s=0.05)):
        took = tell(one, program)
    assert len(took) == 10 and min(took) >= 0.1, took
    took = tell(one, program)
    assert len(took) == 10 and min(took) < 0.05, took


@pytest.mark.cluster
@pytest.mark.slow
def test_a_lossy_link_loses(pair: list[Host]) -> None:
    one, _ = pair
    with one.slow(Quality(loss=0.2)):
        took = tell(one, PING.format(count=200))
    assert 90 < len(took) < 165, "0.8 of 0.8 come back"
    assert len(tell(one, PING.format(count=50))) == 50


@pytest.mark.cluster
@pytest.mark.slow
def test_a_narrow_link_takes_its_time(pair: list[Host]) -> None:
    one, _ = pair
    with one.slow(Quality(bytes_a_s=125_000)):
        [took] = tell(one, ASK.format(size=250_000, lasts_s=0.001))
    assert 2.0 < took < 4.0


@pytest.mark.cluster
@pytest.mark.slow
def test_a_connection_stays_when_a_link_becomes_slow_and_fast_again(pair: list[Host]) -> None:
    one, _ = pair
    command = one.command(f"python -c '{ASK.format(size=1, lasts_s=4)}'")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        time.sleep(1.0)
        with one.slow(Quality(delay_s=0.05)):
            time.sleep(1.0)
        took = list(map(float, asking.communicate(timeout=20)[0].split()))
    assert asking.returncode == 0
    assert sum(one >= 0.1 for one in took) > 4 and max(took[-20:]) < 0.05, took
