"""How a server spreads what it knows of the cluster: the machine of core/gossip.py on the wire."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from dynamo_ray.core.encoding import to_fields
from dynamo_ray.core.gossip import FAN_OUT, Digests, Gossip, Known
from dynamo_ray.core.kinds import DIGESTS, HEARD, KNOWN, NEWS
from dynamo_ray.core.membership import View, view_from
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.wire.errors import Failure
from dynamo_ray.wire.keys import PEER
from dynamo_ray.wire.peers import Peer

EVERY_S = 1.0
TELL_S = 5.0
UNREADABLE = Refused(Code.BAD_REQUEST, "what is told as news is no view")
STRANGER = Refused(Code.FORBIDDEN, "only members of the cluster tell each other what they know")

_log = logging.getLogger("dynamo_ray.server")
OnReply = Callable[[int, list[Any]], None]


class Gossiping:
    """One member's part in the gossip; `peers` are the storage nodes that it knows.

    `learn` takes in what others know, and `on_told` hears of each exchange with a node that has
    ended: what that node knows by now at least, or None if it did not answer.
    """

    def __init__(
        self,
        view: View,
        peers: dict[bytes, Peer],
        chance: Random,
        learn: Callable[[View], None],
        on_told: Callable[[bytes, View | None], None],
    ) -> None:
        self._machine = Gossip(view)
        self._view = view
        self._peers = peers
        self._chance = chance
        self._learn = learn
        self._on_told = on_told
        self._next_s = 0.0

    def on_view(self, view: View) -> None:
        """This is known now."""
        self._view = view
        self._machine.on_view(view)

    def on_tick(self, now_s: float) -> None:
        """Once in a while, exchange what is known with somebody."""
        if now_s >= self._next_s:
            self._next_s = now_s + EVERY_S
            for node in self._some(1):
                self.exchange(node)

    def spread(self) -> None:
        """Tell some others what is new here."""
        news = self._machine.take_news()
        if news is not None:
            for node in self._some(FAN_OUT):
                self._call(node, NEWS, (news.view.to_rows(),), lambda kind, fields: None)

    def exchange(self, node: bytes) -> None:
        """Learn what a node knows, and have it learn what is known here."""
        shown = self._view

        def on_failure() -> None:
            self._on_told(node, None)

        def on_known(kind: int, fields: list[Any]) -> None:
            known = _known(fields) if kind == KNOWN else None
            if known is None:
                return on_failure()
            self._learn(known.view)
            lack = self._machine.on_known(known)
            if lack is None:
                self._on_told(node, shown)
            else:
                self._call(node, NEWS, (lack.view.to_rows(),), on_heard, on_failure)

        def on_heard(kind: int, fields: list[Any]) -> None:
            self._on_told(node, shown if kind == HEARD else None)

        fields = (self._machine.digests.digests,)
        self._call(node, DIGESTS, fields, on_known, on_failure)

    def handle(self, connection: Any, call: int, kind: int, fields: list[Any]) -> None:
        """Another member tells news or shows its digests."""
        if connection.role != PEER:
            connection.reply(call, Refused.KIND, to_fields(STRANGER))
        elif kind == NEWS:
            view = _view(fields[0]) if len(fields) == 1 else None
            if view is None:
                connection.reply(call, Refused.KIND, to_fields(UNREADABLE))
            else:
                self._learn(view)
                connection.reply(call, HEARD, ())
        else:
            shown = fields[0] if len(fields) == 1 and type(fields[0]) is bytes else b""
            known = self._machine.on_digests(Digests(shown))
            connection.reply(call, KNOWN, (known.buckets, known.view.to_rows()))

    def _some(self, count: int) -> list[bytes]:
        up = [node for node, peer in self._peers.items() if peer.connected]
        return self._chance.sample(up, min(count, len(up)))

    def _call(
        self,
        node: bytes,
        kind: int,
        fields: Sequence[Any],
        on_reply: OnReply,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        def failed(failure: Failure) -> None:
            on_failure()

        peer = self._peers.get(node)
        if peer is None:
            on_failure()
        else:
            peer.call(kind, fields, on_reply, failed, timeout_s=TELL_S)


def _known(fields: list[Any]) -> Known | None:
    if len(fields) != 2 or type(fields[0]) is not bytes:
        return None
    view = _view(fields[1])
    return None if view is None else Known(fields[0], view)


def _view(rows: Any) -> View | None:
    try:
        return view_from(rows)
    except (ValueError, TypeError) as error:
        _log.warning("a view could not be read: %s", error)
        return None
