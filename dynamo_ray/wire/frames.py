"""Frames: how a message becomes bytes and how bytes become messages again, without any I/O.

    header   magic "DR" · u8 version · u8 flags (0) · u32 length · u32 crc32 of the payload
    payload  one msgpack array [call: int, kind: int, *fields]

A field is bytes, text, an integer, None, a boolean, or a list of such. Maps, extension types and
timestamps are refused at reading: they are the part of msgpack that calls code or builds objects,
and nothing of ours sends them.

The reader distrusts what it is fed. A length is judged as soon as its header is there, before a
byte of the payload is kept, so that a stranger cannot make us hold more than the limit. A reader
that has refused once refuses for ever: after a bad frame nobody knows where the next one starts.

Cost: a byte is copied at most twice, once into the frame that is still incomplete and once into the
values decoded from it. Many small frames in one chunk are read in place; one huge frame over many
chunks grows one buffer.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any, NoReturn
from zlib import crc32

import msgpack

from dynamo_ray.wire.errors import FrameError, FrameFault

VERSION = 1
HEADER = struct.Struct(">III")
HEADER_BYTES = HEADER.size
PREFIX = int.from_bytes(b"DR" + bytes((VERSION, 0)), "big")  # one comparison per frame, not three
MAX_FRAME_BYTES = 64 << 20
STRANGER_FRAME_BYTES = 4096  # a handshake fits in 300 bytes; this is room for its future
# msgpack makes room for a list before it has seen its items, and lists nest: without this bound
# 4 KiB of nested lists cost 32 MiB (measured). From those we know, at most 80 MiB is borne.
STRANGER_LIST_ITEMS = 16
_KEEP_PACKER_BYTES = 1 << 20  # a packer never shrinks; one that packed more than this is replaced

Message = list[Any]

_packer = msgpack.Packer(autoreset=True)


def pack(fields: Sequence[Any]) -> bytes:
    """The frame of the message [call, kind, *fields], given whole."""
    payload: bytes = _packer.pack(fields)
    length = len(payload)
    if length > _KEEP_PACKER_BYTES:
        _renew_packer()
    return HEADER.pack(PREFIX, length, crc32(payload)) + payload


def _renew_packer() -> None:
    global _packer
    _packer = msgpack.Packer(autoreset=True)


class FrameReader:
    """Bytes in, in pieces of any size; messages out, in order. FrameError, for good, if bad."""

    __slots__ = ("_fault", "_held", "_max_bytes", "_max_list_items", "_need")

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES, max_list_items: int = -1) -> None:
        self._max_bytes = max_bytes
        self._max_list_items = max_list_items  # -1: as many as the payload has bytes
        self._held = bytearray()  # the beginning of a frame whose end has not arrived
        self._need = HEADER_BYTES  # how much must be held before looking at it again is worth while
        self._fault: FrameError | None = None

    def feed(self, chunk: bytes | bytearray, most: int = sys.maxsize) -> list[Message]:
        """The messages that this chunk completes, at most so many; the rest is held unread."""
        if self._fault:
            raise self._fault
        if self._held:
            self._held += chunk
            if len(self._held) < self._need:
                return []
            chunk, self._held = self._held, bytearray()
        messages: list[Message] = []
        view = memoryview(chunk)
        start, size, need = 0, len(chunk), HEADER_BYTES
        while size - start >= HEADER_BYTES and len(messages) < most:
            prefix, length, checksum = HEADER.unpack_from(chunk, start)
            if prefix != PREFIX or length > self._max_bytes:
                self._refuse_header(prefix, length)
            body = start + HEADER_BYTES
            end = body + length
            if end > size:
                need = end - start
                break
            payload = view[body:end]
            if crc32(payload) != checksum:
                self._refuse(FrameFault.BAD_CHECKSUM, f"the checksum of {length} bytes is wrong")
            messages.append(self._decode(payload))
            start = end
        if start < size:
            self._held += view[start:]
        self._need = need
        return messages

    def rest(self) -> bytes:
        """What was fed and not read, for the reader that takes over."""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    def _decode(self, payload: memoryview) -> Message:
        try:
            message = msgpack.unpackb(
                payload,
                object_hook=_refuse,
                ext_hook=_refuse,
                max_ext_len=0,
                max_array_len=self._max_list_items,
            )
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            self._refuse(FrameFault.NOT_A_MESSAGE, str(error) or type(error).__name__)
        if (
            type(message) is list
            and len(message) >= 2
            and type(message[0]) is int
            and type(message[1]) is int
            and message[0] >= 0
            and message[1] >= 0
        ):
            return message
        self._refuse(FrameFault.NOT_A_MESSAGE, "no array that starts with a call and a kind")

    def _refuse_header(self, prefix: int, length: int) -> NoReturn:
        magic, version, flags = prefix >> 16, prefix >> 8 & 0xFF, prefix & 0xFF
        if magic != PREFIX >> 16:
            self._refuse(FrameFault.BAD_MAGIC, f"a frame starts with {magic:#06x}")
        if version != VERSION:
            self._refuse(FrameFault.BAD_VERSION, f"a frame of version {version}, not {VERSION}")
        if flags:
            self._refuse(FrameFault.BAD_FLAGS, f"a frame has unknown flags {flags:#04x}")
        self._refuse(FrameFault.TOO_LONG, f"{length} bytes, the limit is {self._max_bytes}")

    def _refuse(self, fault: FrameFault, detail: str) -> NoReturn:
        self._fault = FrameError(fault, detail)
        self._held = bytearray()
        raise self._fault


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a map or an extension type")
