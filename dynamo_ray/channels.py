"""A client's ways to the coordinators: who they are by the view, and which of them to ask first.

The view is followed: a channel is opened to who has come, and who has left is asked no more. Its
channel closes when nothing is outstanding there, so that what it took on it can still answer. Of
two that are well, the one with less outstanding is asked (core/pool.py); who gives no sign of life,
refused or was lost just now, is asked after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dynamo_ray.core.membership import Fact, View
from dynamo_ray.core.pool import asking_order, serving
from dynamo_ray.wire.errors import Failure

OnReply = Callable[[int, list[Any]], None]
OnFailure = Callable[[Failure], None]
Lives = Callable[[], bool]


class Channel(Protocol):
    """A way to a coordinator: a wire connection, a Ray actor, or one in this very process."""

    @property
    def connected(self) -> bool: ...

    def call(
        self,
        kind: int,
        fields: Sequence[Any],
        on_reply: OnReply,
        on_failure: OnFailure,
        timeout_s: float | None = None,
    ) -> int: ...

    def listen(self) -> Lives: ...

    def remote_expiry(self, timeout_ms: int) -> int: ...

    def set_address(self, address: tuple[str, int]) -> None: ...

    def close(self) -> None: ...


Opens = Callable[[Fact], Channel]


class Channels:
    """The channels by the coordinators' names. Without `opens` they stay the first ones."""

    def __init__(self, first: dict[str, Channel], opens: Opens | None, turn: int) -> None:
        self._open = dict(first)
        self._opens = opens
        self._turn = turn
        self._outstanding: dict[Channel, int] = dict.fromkeys(self._open.values(), 0)
        self._unwell: dict[Channel, Lives] = {}

    def __len__(self) -> int:
        return len(self._open)

    def values(self) -> list[Channel]:
        """The channels to those that serve."""
        return list(self._open.values())

    def follow(self, view: View) -> None:
        """Open what is new, go where who moved is now, and let go of who has left."""
        if self._opens is None:
            return
        facts = {fact.name: fact for fact in serving(view)}
        for name, fact in facts.items():
            channel = self._open.get(name)
            if channel is None:
                self._open[name] = channel = self._opens(fact)
                self._outstanding[channel] = 0
            else:
                channel.set_address((fact.host, fact.port))
        for name in self._open.keys() - facts.keys():
            channel = self._open.pop(name)
            self._unwell.pop(channel, None)
            self._close_if_idle(channel)

    def ordered(self) -> list[Channel]:
        """In which order to ask: those who are well, who are unwell, who are not connected."""
        channels = list(self._open.values())
        self._turn += 1
        if not self._unwell and all([channel.connected for channel in channels]):
            return self._by_load(channels)
        self._unwell = {c: lives for c, lives in self._unwell.items() if not lives()}
        ranked: dict[tuple[bool, bool], list[Channel]] = {}
        for channel in channels:
            rank = not channel.connected, channel in self._unwell
            ranked.setdefault(rank, []).append(channel)
        return [one for rank in sorted(ranked) for one in self._by_load(ranked[rank])]

    def _by_load(self, channels: list[Channel]) -> list[Channel]:
        outstanding = self._outstanding
        order = asking_order([outstanding[channel] for channel in channels], self._turn)
        return [channels[index] for index in order]

    def begun(self, channel: Channel, work: int) -> None:
        """So much work, in keys, is asked of it."""
        self._outstanding[channel] = self._outstanding.get(channel, 0) + work

    def ended(self, channel: Channel, work: int) -> None:
        """It has answered that work, or will not."""
        self._outstanding[channel] -= work
        if channel not in self._open.values():
            self._close_if_idle(channel)

    def is_unwell(self, channel: Channel) -> bool:
        """True if it is asked last."""
        return channel in self._unwell

    def ask_last(self, channel: Channel, until: Lives) -> None:
        """Ask it after all others, until that is true."""
        self._unwell[channel] = until

    def close(self) -> None:
        """Hang up, also on those who have left."""
        for channel in tuple(self._outstanding):
            channel.close()

    def _close_if_idle(self, channel: Channel) -> None:
        if not self._outstanding.get(channel):
            self._outstanding.pop(channel, None)
            channel.close()
