"""The faults of connections do what they say, on a process that does nothing but echo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos.sockets import cut, hindrance, reset_all

ECHO = """
import socket, threading
door = socket.create_server(("127.0.0.1", 0))
print(door.getsockname()[1], flush=True)
def echo(one):
    with one:
        while said := one.recv(100):
            one.sendall(said)
while True:
    threading.Thread(target=echo, args=(door.accept()[0],), daemon=True).start()
"""
QUIET_S = 0.5


@dataclass
class Echo:
    pid: int
    port: int

    def connect(self, timeout_s: float = 5.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)


@pytest.fixture
def echoes() -> Iterator[list[Echo]]:
    running = [started(), started()]
    try:
        doors = [int(one.stdout.readline()) for one in running if one.stdout]
        if why := hindrance(running[0].pid):
            pytest.skip(why)
        yield [Echo(one.pid, port) for one, port in zip(running, doors, strict=True)]
    finally:
        for one in running:
            one.kill()
            one.communicate()


def said(one: socket.socket, text: bytes) -> bytes:
    one.sendall(text)
    return one.recv(100)


def test_what_is_cut_passes_nothing_and_goes_on_when_it_heals(echoes: list[Echo]) -> None:
    far, near = echoes
    with far.connect() as apart, near.connect() as within:
        assert said(apart, b"1") == b"1"
        with cut([far.pid], [os.getpid(), near.pid], [far.port, near.port]) as count:
            assert count >= 3  # both ends, and the doors
            apart.sendall(b"2")
            apart.settimeout(QUIET_S)
            with pytest.raises(TimeoutError):
                apart.recv(100)
            assert said(within, b"3") == b"3"  # nothing is between these two
            for door in echoes:
                with pytest.raises(TimeoutError):
                    door.connect(QUIET_S)
        apart.settimeout(10)
        assert apart.recv(100) == b"2"
        with far.connect() as again:
            assert said(again, b"4") == b"4"


def test_all_connections_of_a_process_are_reset(echoes: list[Echo]) -> None:
    victim, other = echoes
    with victim.connect() as first, victim.connect() as second, other.connect() as spared:
        assert [said(one, b"1") for one in (first, second, spared)] == [b"1"] * 3
        assert reset_all(victim.pid, [victim.port]) == 2
        for one in (first, second):
            with pytest.raises(ConnectionResetError):
                time.sleep(0.05)
                one.recv(100)
        assert said(spared, b"2") == b"2"
        with victim.connect() as again:
            assert said(again, b"3") == b"3"
