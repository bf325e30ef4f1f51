"""The shell of a client in the simulator: one operation at a time, and a history of them.

A request is tried by `Attempts` at one coordinator after another, with its put ids. An operation
whose end is not known may be repeated by the caller with the same ids, as `Client.update` does; its
outcome is what was told last, and stays unknown once it was unknown and never became ok.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dynamo_ray.core.attempts import Answered, Ask, Attempts
from dynamo_ray.core.messages import ClientGet, ClientPut, Code, GetDone, PutDone
from dynamo_ray.core.version import EMPTY_CLOCK, clock_of
from dynamo_ray.sim.coordinators import CoordinatorHost
from dynamo_ray.sim.history import FAILED, OK, UNKNOWN, History, Read, Write
from dynamo_ray.sim.network import Network, Peer
from dynamo_ray.sim.world import MILLISECOND, SECOND, World

MARGIN_S = 0.3
PATIENCE = 0.4  # of the time limit
Then = Callable[[], None]


class ClientHost(Peer):
    """One client; `work` says what to do next and returns False when it has had enough."""

    def __init__(self, world: World, network: Network, name: str, history: History) -> None:
        super().__init__(world, network, name)
        self.history = history
        self.coordinators: list[CoordinatorHost] = []
        self.on_acknowledged: Callable[[Write], None] = lambda write: None
        self.work: Callable[[ClientHost], bool] = lambda client: False
        self.think_us = 100 * MILLISECOND
        self.timeout_ms = 1000
        self.repeats = 1
        self.busy = False
        self.chance = world.stream(name)

    def start(self) -> None:
        """Begin to work."""
        self.busy = True
        self.after(int(self.chance.random() * self.think_us), "think", self.go_on)

    def go_on(self) -> None:
        """The next operation, or the end."""
        self.busy = self.work(self)

    def rest(self) -> None:
        """An operation has ended; think a while."""
        self.after(int(self.chance.random() * 2 * self.think_us), "think", self.go_on)

    def on_call(
        self, src: Peer, call: int, message: Any, expires_ms: int, epoch: bytes | None
    ) -> None:
        """Nobody asks a client."""

    def put(self, writes: Sequence[Write], then: Then) -> None:
        """Put or delete, in one request, and keep what was told."""
        first = writes[0]
        if first.attempts == 1:
            for write in writes:
                write.invoked = self.world.now
                self.history.add_write(write)
        message = ClientPut(
            [write.key for write in writes],
            [write.value for write in writes],
            [write.context for write in writes],
            [write.put_id for write in writes],
            [write.ttl_ms for write in writes],
            first.w,
            first.strict,
        )
        self._request(message, lambda reply: self._told_put(writes, reply, then))

    def get(self, reads: Sequence[Read], then: Then) -> None:
        """Get in one request, and keep what was told."""
        for read in reads:
            read.invoked = self.world.now
            self.history.reads.append(read)
        keys = [read.key for read in reads]
        message = ClientGet(keys, reads[0].r, reads[0].strict)
        self._request(message, lambda reply: self._told_get(reads, reply, then))

    def _told_put(self, writes: Sequence[Write], reply: Any, then: Then) -> None:
        codes = [Code.OK] * len(writes)
        if isinstance(reply, PutDone):
            for failure in reply.failures:
                codes[failure.index] = Code(failure.code)
        else:
            codes = [Code(reply.code)] * len(writes)
        for row, (write, code) in enumerate(zip(writes, codes, strict=True)):
            self._end_write(write, code)
            if write.outcome == OK and isinstance(reply, PutDone):
                write.token = reply.contexts[row]
                self.on_acknowledged(write)
        again = [write for write in writes if write.outcome == UNKNOWN]
        if again and writes[0].attempts <= self.repeats:
            for write in again:
                write.attempts += 1
            self.put(again, then)
        else:
            then()

    def _end_write(self, write: Write, code: Code) -> None:
        write.ended = self.world.now
        if code == Code.OK:
            write.outcome = OK
        elif code == Code.UNKNOWN or write.outcome == UNKNOWN:
            write.outcome = UNKNOWN
        else:
            write.outcome = FAILED

    def _told_get(self, reads: Sequence[Read], reply: Any, then: Then) -> None:
        failed = set(range(len(reads)))
        if isinstance(reply, GetDone):
            failed = {failure.index for failure in reply.failures}
        for row, read in enumerate(reads):
            read.ended = self.world.now
            read.outcome = FAILED if row in failed else OK
            if row not in failed:
                read.state, read.degraded = reply.states[row], reply.degraded
                clock = EMPTY_CLOCK if read.state is None else clock_of(read.state)
                read.token = reply.seals[row] + clock
        then()

    def _request(self, message: Any, told: Callable[[Any], None]) -> None:
        order = list(self.coordinators)
        self.chance.shuffle(order)
        attempts = Attempts(message, order)

        def perform(effects: list[Ask | Answered]) -> None:
            for effect in effects:
                if isinstance(effect, Answered):
                    told(effect.reply)
                elif effect.wait_s:
                    self.after(int(effect.wait_s * SECOND), "wait", ask, effect)
                else:
                    ask(effect)

        def ask(effect: Ask) -> None:
            asked.append(effect.coordinator)
            self.call(
                effect.coordinator,
                effect.message,
                self.timeout_ms / 1000,
                lambda reply: perform(attempts.on_reply(reply)),
                lambda maybe_applied: perform(attempts.on_failure(maybe_applied)),
            )

        limit_us = int((self.timeout_ms / 1000 + MARGIN_S) * SECOND)
        # The network of this world tells nothing of pings; whoever is slow counts as silent.
        asked: list[CoordinatorHost] = []
        for step in range(1, len(order)):
            patience_us = int(step * PATIENCE * self.timeout_ms * MILLISECOND)
            self.after(patience_us, "patience", lambda: perform(attempts.on_silence(asked[-1])))
        self.after(limit_us, "time limit", lambda: perform(attempts.on_deadline()))
        perform(attempts.start())
