"""A slow cable: a process that passes frames on between two TAP devices, late or not at all.

    near ══► Lane ══► far       in a Lane a frame is lost by chance, or dropped where too much waits
         ◄══ Lane ◄══           for a narrow line, or waits: for its turn, then for its delay

`python cable.py NEAR FAR DELAY_S JITTER_S LOSS BYTES_A_S` makes the devices, says "ready", and
ends, the devices with it, when stdin does. (A kernel without netem cannot do this by itself.)
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from random import Random
from typing import NamedTuple

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 65_536
# What waits for its turn on a narrow line: half a second at 1 Mbit/s, as in a cheap router.
QUEUED_BYTES = 64 * 1024
MOST_FRAMES = 10_000
AT_ONCE = 64


class Quality(NamedTuple):
    """What a line does, each way. `jitter_s` is the most that a delay is longer or shorter by.

    `loss` is the share of frames that are lost; `bytes_a_s` of 0 is a line without a bound.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_a_s: float = 0.0


class Lane:
    """One way of a line. Frames come out in the order in which they came in."""

    def __init__(self, quality: Quality, chance: Random) -> None:
        self._quality, self._chance = quality, chance
        self._frames: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0

    @property
    def due_at(self) -> float | None:
        """When the next frame comes out; None if none is on its way."""
        return self._frames[0][0] if self._frames else None

    def put(self, frame: bytes, now: float) -> bool:
        """A frame comes in; False if it never comes out."""
        delay_s, jitter_s, loss, bytes_a_s = self._quality
        if len(self._frames) >= MOST_FRAMES or self._chance.random() < loss:
            return False
        sent = max(now, self._free_at)
        if bytes_a_s:
            if (sent - now) * bytes_a_s > QUEUED_BYTES:
                return False
            sent += len(frame) / bytes_a_s
            self._free_at = sent
        late = delay_s + self._chance.uniform(-jitter_s, jitter_s)
        self._frames.append((sent + max(0.0, late), frame))
        return True

    def due(self, now: float) -> list[bytes]:
        """The frames that come out now; one that is early waits for those before it."""
        found = []
        while self._frames and self._frames[0][0] <= now:
            found.append(self._frames.popleft()[1])
        return found


def tap(name: str) -> int:
    """A new TAP device, that is gone once it is closed. Needs root."""
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return made


def run(ends: tuple[int, int], quality: Quality) -> None:
    """Pass frames on, both ways, until stdin ends."""
    near, far = ends
    there, back = Lane(quality, Random()), Lane(quality, Random())
    ways = ((near, there, far), (far, back, near))
    while True:
        now = time.monotonic()
        waits = [at - now for lane in (there, back) if (at := lane.due_at) is not None]
        ready, _, _ = select.select([near, far, sys.stdin], [], [], max(0.0, min(waits, default=9)))
        if sys.stdin in ready:
            return
        for source, lane, target in ways:
            if source in ready:
                take(source, lane)
            for frame in lane.due(time.monotonic()):
                with suppress(OSError):  # nobody is there, or it takes no more: it is lost
                    os.write(target, frame)


def take(source: int, lane: Lane) -> None:
    """Put into a lane what has come, some frames at most."""
    with suppress(BlockingIOError):
        for _ in range(AT_ONCE):
            lane.put(os.read(source, FRAME_BYTES), time.monotonic())


if __name__ == "__main__":
    made = tap(sys.argv[1]), tap(sys.argv[2])
    print("ready", flush=True)
    run(made, Quality(*map(float, sys.argv[3:])))
