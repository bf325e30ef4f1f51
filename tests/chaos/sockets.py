"""Faults of connections, without rights over the machine's network.

A process's sockets are taken hold of from outside (pidfd_getfd), and then

    cut    a filter on a socket that passes nothing: the kernel drops each packet in silence, nobody
           is told, both ends stay open, and what was sent is sent again when the cut heals
    reset  connect to nowhere (AF_UNSPEC): the connection is gone at once, both ends are told

Linux 5.6 or newer, and the right to trace the process: `hindrance` says in words what is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIDFD_GETFD = 438
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
# Flags are the 14th byte of a TCP header; a packet with SYN and without ACK opens a connection.
NO_NEW_CONNECTIONS = b"".join(
    struct.pack("HBBI", *one)
    for one in (
        (0x30, 0, 0, 13),  # load the flags
        (0x54, 0, 0, 0x12),  # SYN and ACK of them
        (0x15, 0, 1, 0x02),  # SYN alone: drop
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
_libc = ctypes.CDLL(None, use_errno=True)


def hindrance(pid: int) -> str:
    """Why the sockets of a process cannot be taken hold of here; empty if they can."""
    if not hasattr(os, "pidfd_open"):
        return "this system has no pidfd_open"
    try:
        held = os.pidfd_open(pid)
    except OSError as error:
        return f"no process can be held by a descriptor here ({error.strerror})"
    found, number = _libc.syscall(PIDFD_GETFD, held, 0, 0), ctypes.get_errno()
    os.close(held)
    if found < 0 and number != errno.EBADF:  # it may be looked for
        return f"sockets of other processes may not be held here ({os.strerror(number)})"
    if found >= 0:
        os.close(found)
    return ""


def sockets_of(pid: int) -> Iterator[socket.socket]:
    """The TCP sockets of a process, as duplicates that the caller closes."""
    held = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if not os.readlink(entry).startswith("socket:"):
                    continue
                found = _libc.syscall(PIDFD_GETFD, held, int(entry.name), 0)
                if found < 0:
                    continue
                one = socket.socket(fileno=found)
                if one.type == socket.SOCK_STREAM and one.family in (
                    socket.AF_INET,
                    socket.AF_INET6,
                ):
                    yield one
                else:
                    one.close()
    finally:
        os.close(held)


def _peer(one: socket.socket) -> int | None:
    try:
        return int(one.getpeername()[1])
    except OSError:
        return None  # it listens


def reset_all(pid: int, ports: Collection[int]) -> int:
    """Reset every connection of a process from or to one of these ports; how many."""
    count = 0
    for one in sockets_of(pid):
        with one:
            if _peer(one) is not None and {_peer(one), one.getsockname()[1]} & set(ports):
                count += not _libc.connect(one.fileno(), struct.pack("H14x", 0), 16)
    return count


@contextmanager
def cut(here: Collection[int], there: Collection[int], ports: Collection[int]) -> Iterator[int]:
    """Cut the processes `here` off from those `there`, in both directions, while inside.

    `ports` are those at which members listen. What is open between the sides passes nothing; what
    is open within a side goes on; nobody opens a new connection to any of them meanwhile.
    """
    held: list[socket.socket] = []
    try:
        for side, other in ((here, there), (there, here)):
            far = {pair for pid in other for pair in _connections(pid)}
            for pid in side:
                held += _cut_off(pid, far, ports)
        yield len(held)
    finally:
        for one in held:
            with one, suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _connections(pid: int) -> set[tuple[int | None, int]]:
    """The connections of a process, each as its other end knows it: that end's port, and ours.

    Both, because two connections may have the same port at one end.
    """
    found = set()
    for one in sockets_of(pid):
        with one:
            found.add((_peer(one), int(one.getsockname()[1])))
    return found


def _cut_off(
    pid: int, far: set[tuple[int | None, int]], ports: Collection[int]
) -> Iterator[socket.socket]:
    for one in sockets_of(pid):
        port, peer = int(one.getsockname()[1]), _peer(one)
        if peer is None and port in ports:
            _filter(one, NO_NEW_CONNECTIONS)
        elif (port, peer) in far and {port, peer} & set(ports):
            _filter(one, RETURN_NOTHING)
        else:
            one.close()
            continue
        yield one


def _filter(one: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program)
    told = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, told)
