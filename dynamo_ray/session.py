"""A client's conversation with a cluster's coordinators, inside one asyncio loop.

It knows where the coordinators are (any member tells the view), keeps a way to each (channels.py),
and runs every request through core/attempts.py: lost coordinators are replaced by others, with the
same put ids. Single operations that are submitted in one turn of the loop leave together (natural
batching: no timer, no delay when idle); while many batches are under way, those that come wait for
a place and so leave together too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dynamo_ray.channels import Channel, Channels, OnFailure, OnReply, Opens
from dynamo_ray.core.attempts import NOT_BEGUN, Answered, Ask, Attempts
from dynamo_ray.core.charter import charter_from
from dynamo_ray.core.encoding import BadMessageError, from_fields, to_fields
from dynamo_ray.core.kinds import VIEW
from dynamo_ray.core.membership import Fact, View, merge_views, view_from
from dynamo_ray.core.messages import Code, Refused
from dynamo_ray.core.slots import Placement, placed
from dynamo_ray.errors import AuthenticationError, ClusterNotFoundError
from dynamo_ray.wire.errors import Failure, RefusedError, WireError
from dynamo_ray.wire.keys import Credentials
from dynamo_ray.wire.options import Options
from dynamo_ray.wire.peers import Hooks, Peer

REFRESH_S = 5.0
SEARCH_S = 0.5
LOST_S = 0.05
ASK_S = 0.5
GRACE_S = 0.25
PATIENCE_S = 0.2
LEAST_PATIENCE_S = 0.05
REST_S = 0.2
TOO_LATE = Refused(Code.EXPIRED, "no coordinator could be asked in time")


class Session:
    """Finds the coordinators and asks them. Belongs to the loop in which `open` ran."""

    def __init__(
        self,
        seeds: Sequence[tuple[str, int]],
        credentials: Credentials | None,
        channels: dict[str, Channel] | None = None,
        options: Options | None = None,
        opens: Opens | None = None,
    ) -> None:
        """By the wire, or by `channels`, and to who comes later by what `opens` gives."""
        self.view = View()
        self.charter: dict[str, Any] = {}
        self._seeds = list(seeds)
        self._credentials = credentials
        self._options = options or Options(interval_s=1.0)
        self._by_wire = not channels
        self._follows = self._by_wire or opens is not None
        opens = self._peer_of if self._by_wire else opens
        self._channels = Channels(channels or {}, opens, random.randrange(1 << 16))
        self._seed_peers: list[Peer] = []
        self._pending = 0
        self._idle = asyncio.Event()
        self._lost = asyncio.Event()
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def timeout_s(self) -> float:
        """How long the cluster's clients wait unless they say otherwise."""
        times = self.charter.get("settings", {}).get("times", {})
        return float(times.get("timeout_s", 2.0))

    async def open(self, timeout_s: float, members_only: bool = False) -> None:
        """Reach any member and learn the view, and then a coordinator unless `members_only`.

        Raises ClusterNotFoundError if none answers, AuthenticationError if the token is wrong.
        """
        if not self._by_wire:
            await self._ask_charter(timeout_s)
            self._stay_fresh()
            return
        assert self._credentials is not None
        self._seed_peers = [self._peer(address) for address in self._seeds]
        for peer in self._seed_peers:
            peer.start()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self._refresh():
            is_late = asyncio.get_running_loop().time() > deadline
            if is_late or all(peer.problem for peer in self._seed_peers):
                self._give_up_if_refused()
            if is_late:
                problems = "; ".join(str(p.problem) for p in self._seed_peers if p.problem)
                self.close()
                where = ", ".join(f"{host}:{port}" for host, port in self._seeds)
                raise ClusterNotFoundError(
                    f"no cluster answers at {where} ({problems or 'no answer'}); "
                    "check the address, and that the cluster runs"
                )
            await asyncio.sleep(0.02)
        if not members_only:
            await self._first_coordinator(deadline)
        self._stay_fresh()

    def _stay_fresh(self) -> None:
        if self._follows:
            self._refreshing = asyncio.get_running_loop().create_task(self._keep_fresh())

    def _give_up_if_refused(self) -> None:
        """Raise AuthenticationError if one refused, now that nobody else is left to answer.

        Not before: one of the addresses may be another cluster's by now.
        """
        for peer in self._seed_peers:
            if isinstance(peer.problem, RefusedError):
                self.close()
                raise AuthenticationError(_refusal(peer.problem, peer.address))

    def close(self) -> None:
        """Hang up; requests in flight end as unknown."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        for peer in self._seed_peers:
            peer.close()
        self._channels.close()

    async def drain(self, timeout_s: float) -> None:
        """Wait, at most so long, until nothing is in flight."""
        if self._pending:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    def ask(self, message: Any, timeout_s: float, on_answer: Callable[[Any], None]) -> None:
        """Send a client's request; `on_answer` gets the reply, or a Refused, exactly once."""
        _Asking(self, message, timeout_s, on_answer)

    async def request(self, kind: int, fields: Sequence[Any], timeout_s: float) -> list[Any]:
        """Ask any member something small (status, where). Raises ClusterNotFoundError."""
        loop = asyncio.get_running_loop()
        for channel in self._ordered():
            ended: asyncio.Future[list[Any] | None] = loop.create_future()
            channel.call(kind, fields, *_into(ended), timeout_s)
            answer = await ended
            if answer is not None:
                return answer
        raise ClusterNotFoundError("no coordinator answers; is the cluster running?")

    def _ordered(self) -> list[Channel]:
        """The coordinators in the order in which to ask them."""
        ordered = self._channels.ordered()
        if not ordered or not ordered[0].connected:
            self._lost.set()
        return ordered

    async def _first_coordinator(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while not any(channel.connected for channel in self._channels.values()):
            if loop.time() > deadline:
                self.close()
                raise ClusterNotFoundError(
                    "the cluster's members answer, but no coordinator can be reached"
                )
            await asyncio.sleep(0.005)
            if not len(self._channels):
                await self._refresh()

    async def _ask_charter(self, timeout_s: float) -> None:
        """Learn the settings through a fixed channel; its way is known already."""
        for channel in self._channels.values():
            answer = await _answer_of(channel, timeout_s)
            if answer is not None:
                self.learn(answer)
                return
        raise ClusterNotFoundError("no coordinator answers; is the cluster running?")

    async def _keep_fresh(self) -> None:
        """Learn where coordinators are: soon when one was lost, else now and then.

        At first more often: whoever answered first may not know everybody of a young cluster.
        """
        pause_s = SEARCH_S
        while True:
            if not all(channel.connected for channel in self._channels.values()):
                pause_s = SEARCH_S
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._lost.wait()
            pause_s = min(REFRESH_S, 2 * pause_s)
            await asyncio.sleep(LOST_S)
            self._lost.clear()
            if await self._refresh():
                self._let_go_of_seeds()
            elif self._by_wire:
                self._turn_to_nodes()

    def _turn_to_nodes(self) -> None:
        """Nobody known answers: storage nodes keep their addresses, and know the view."""
        known = {peer.address for peer in self._seed_peers}
        nodes = [(fact.host, fact.port) for fact in self.view.nodes().values()]
        for address in dict.fromkeys([*self._seeds, *nodes]):
            if address not in known:
                peer = self._peer(address)
                self._seed_peers.append(peer)
                peer.start()

    def placement(self) -> Placement:
        """Who owns what, as far as this session knows. Raises CharterError."""
        return placed(charter_from(self.charter), self.view)

    def _let_go_of_seeds(self) -> None:
        """Others answer: try no longer where nobody does, as that member may have left for good."""
        for peer in self._seed_peers:
            if peer.problem is not None and not peer.connected:
                peer.close()
        self._seed_peers = [peer for peer in self._seed_peers if not peer.closed]

    async def _refresh(self) -> bool:
        """Ask members for the view until one answers."""
        channels = self._channels
        for one in sorted([*channels.values(), *self._seed_peers], key=channels.is_unwell):
            if not one.connected and not (isinstance(one, Peer) and await one.wait_connected(0.02)):
                continue
            answer = await _answer_of(one, ASK_S)
            if answer is not None:
                self.learn(answer)
                return True
        return False

    def learn(self, fields: list[Any]) -> None:
        """Know this, too: what a member answered that was asked for its view."""
        try:
            self.view = merge_views(self.view, view_from(fields[0]))
            self.charter = dict(json.loads(fields[1]))
        except (ValueError, TypeError, IndexError):
            return
        self._channels.follow(self.view)

    def _peer_of(self, fact: Fact) -> Peer:
        peer = self._peer((fact.host, fact.port))
        peer.start()
        return peer

    def _peer(self, address: tuple[str, int]) -> Peer:
        assert self._credentials is not None
        hooks = Hooks(on_down=lambda reason: self._lost.set())
        return Peer(
            address, self._credentials, rng=random.Random(), hooks=hooks, options=self._options
        )

    def _found_silent(self, channel: Channel, lives: Callable[[], bool]) -> None:
        """Ask the others first, until something is heard of it, and look for more of them."""
        self._channels.ask_last(channel, lives)
        self._lost.set()

    def _found_unwell(self, channel: Channel) -> None:
        """It refused without beginning, or was lost: who fails at once never has much to do.

        So for a moment the others are asked first; and it may have left.
        """
        loop = asyncio.get_running_loop()
        rested_at = loop.time() + REST_S
        self._found_silent(channel, lambda: loop.time() > rested_at)

    def _begun(self) -> None:
        self._pending += 1

    def _ended(self) -> None:
        self._pending -= 1
        if not self._pending:
            self._idle.set()


class _Asking:
    """The shell of one Attempts machine.

    Now and then it asks the coordinator for a sign of life. One that gives none is stopped, or cut
    off without its connection being closed; one that works on a slow request answers a ping.
    """

    __slots__ = (
        "_asked",
        "_ends_at",
        "_machine",
        "_on_answer",
        "_patience_s",
        "_session",
        "_timer",
        "_work",
    )

    def __init__(
        self,
        session: Session,
        message: Any,
        timeout_s: float,
        on_answer: Callable[[Any], None],
    ) -> None:
        self._session = session
        self._on_answer = on_answer
        self._machine = Attempts(message, session._ordered())
        self._work = len(message.keys)
        self._asked: Channel | None = None
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + timeout_s + GRACE_S
        self._patience_s = min(PATIENCE_S, max(LEAST_PATIENCE_S, timeout_s / 4))
        self._timer = loop.call_later(self._patience_s, self._wonder)
        session._begun()
        self._perform(self._machine.start())

    def _perform(self, effects: list[Ask | Answered]) -> None:
        for effect in effects:
            if isinstance(effect, Answered):
                self._timer.cancel()
                self._session._ended()
                self._on_answer(effect.reply)
            elif effect.wait_s:
                asyncio.get_running_loop().call_later(effect.wait_s, self._send, effect)
            else:
                self._send(effect)

    def _wonder(self) -> None:
        """It takes long: ask the coordinator asked last for a sign of life."""
        if self._asked is None:
            self._set_timer(self._wonder)
        else:
            due = asyncio.get_running_loop().time() + self._patience_s
            self._set_timer(self._judge, self._asked, self._asked.listen(), due)

    def _judge(self, channel: Channel, lives: Callable[[], bool], due: float) -> None:
        self._set_timer(self._wonder)
        was_asleep = asyncio.get_running_loop().time() > due + self._patience_s
        if not was_asleep and not lives():  # who slept has read nothing meanwhile
            self._session._found_silent(channel, lives)
            reached = [one for one in self._session._ordered() if one.connected]
            self._perform(self._machine.on_silence(channel, reached))

    def _set_timer(self, act: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._ends_at - loop.time()
        if left_s > self._patience_s:
            self._timer = loop.call_later(self._patience_s, act, *args)
        else:
            self._timer = loop.call_later(left_s, self._late)

    def _send(self, effect: Ask) -> None:
        """Send it with what is left of the caller's time, as a reading of the receiver's clock."""
        if self._machine.answered:
            return
        left_s = self._ends_at - GRACE_S - asyncio.get_running_loop().time()
        if left_s <= 0:
            self._perform(self._machine.on_reply(TOO_LATE))
            return
        channel = self._asked = effect.coordinator
        self._session._channels.begun(channel, self._work)
        channel.call(
            effect.message.KIND,
            (channel.remote_expiry(int(left_s * 1000)), *to_fields(effect.message)),
            partial(self._on_reply, channel),
            partial(self._on_failure, channel),
            left_s + 2 * GRACE_S,
        )

    def _on_reply(self, channel: Channel, kind: int, fields: list[Any]) -> None:
        self._session._channels.ended(channel, self._work)
        try:
            message = from_fields(kind, fields)
        except BadMessageError as error:
            message = Refused(Code.UNKNOWN, f"the answer could not be read: {error}")
        if isinstance(message, Refused) and message.code in NOT_BEGUN:
            self._session._found_unwell(channel)
        self._perform(self._machine.on_reply(message))

    def _on_failure(self, channel: Channel, failure: Failure) -> None:
        self._session._channels.ended(channel, self._work)
        if failure is Failure.LOST:
            self._session._found_unwell(channel)
        if failure is Failure.OVERLOADED:
            refused = Refused(Code.OVERLOADED, "too much waits to be sent to the coordinator")
            self._perform(self._machine.on_reply(refused))
        elif failure is Failure.TOO_LONG:
            refused = Refused(Code.BAD_REQUEST, "the request is longer than a frame may be")
            self._perform(self._machine.on_reply(refused))
        else:
            self._perform(self._machine.on_failure(failure.maybe_received))

    def _late(self) -> None:
        self._perform(self._machine.on_deadline())


async def _answer_of(channel: Channel, timeout_s: float) -> list[Any] | None:
    ended: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
    channel.call(VIEW, (), *_into(ended), timeout_s)
    return await ended


def _into(ended: asyncio.Future[list[Any] | None]) -> tuple[OnReply, OnFailure]:
    def on_reply(kind: int, fields: list[Any]) -> None:
        if not ended.done():
            ended.set_result(None if kind == Refused.KIND else fields)

    def on_failure(failure: Failure) -> None:
        if not ended.done():
            ended.set_result(None)

    return on_reply, on_failure


def _refusal(problem: WireError, address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]} refused the connection: {problem}"
