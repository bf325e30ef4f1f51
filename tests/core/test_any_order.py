"""A coordinator in any order of events: rings that change, refusals, losses, and late answers.

Every request is answered once and truly, by rows in its own order, and nothing is left behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dynamo_ray.core.clock import Dot
from dynamo_ray.core.coordinator import Coordinator, ToClient, ToNode
from dynamo_ray.core.messages import (
    ClientGet,
    Code,
    Fetch,
    Fetched,
    Merge,
    Merged,
    Mint,
    Minted,
    PutDone,
    Refused,
)
from dynamo_ray.core.ring import Ring, partition_of
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.version import clock_of, decode, decode_clock
from tests.core.histories import dot, state, version
from tests.core.test_requests import DESK, KEYS, keys_of_different_routes, put_of

WALL = 1_000
NODES = [member.node for member in DESK.ring.members]
HERE = b"the coordinator"


def _alike(count: int) -> list[bytes]:
    """Keys of as many partitions that have the same owners."""
    found: dict[int, bytes] = {}
    owners = DESK.ring.owners(partition_of(b"k", 16))
    for key in (b"k", *(b"%d" % i for i in range(1000))):
        partition = partition_of(key, 16)
        if DESK.ring.owners(partition) == owners:
            found.setdefault(partition, key)
    return list(found.values())[:count]


MATES = _alike(3)
OTHERS = [key for key in keys_of_different_routes(3) if key not in MATES]


def _with_move(ring: Ring, key: bytes, copy: int, which: int) -> Ring:
    """One slot of the key's partition goes to one of the nodes that have none of it."""
    partition = partition_of(key, 16)
    slots, spares = list(ring.slots), [n for n in NODES if n not in ring.owners(partition)]
    slots[partition * 3 + copy] = spares[which % len(spares)]
    return replace(ring, slots=tuple(slots))


class Driver:
    """Plays the clients, the nodes and the network, and remembers what was true."""

    def __init__(self) -> None:
        self.at = Coordinator(replace(DESK, settings=Settings(partitions=16)))
        self.now, self.dots = 0.0, 0
        self.rings = [DESK.ring]
        self.knows = dict.fromkeys([*NODES, HERE], 0)
        self.calls: list[ToNode] = []
        self.exchanges: list[bytes] = []
        self.asked: list[Any] = []
        self.expiries: list[float] = []
        self.answered: list[int] = []
        # By put id: how many may have minted it, the dots, whether the coordinator knows of one,
        # and who holds a copy that counts.
        self.doubts: defaultdict[bytes, int] = defaultdict(int)
        self.minted: defaultdict[bytes, set[Dot]] = defaultdict(set)
        self.known: set[bytes] = set()
        self.holders: defaultdict[bytes, set[bytes]] = defaultdict(set)

    # What happens.

    def put(self, which: int) -> None:
        number, keys = len(self.asked), _some(which)
        ids = [bytes([number, row]) * 8 for row in range(len(keys))]
        self.ask(put_of(keys=keys, put_ids=ids, w=which % 3 + 1, strict=bool(which & 1)))

    def get(self, which: int) -> None:
        self.ask(ClientGet(_some(which), 0, bool(which & 1)))

    def ask(self, message: Any) -> None:
        to = len(self.asked)
        self.asked.append(message)
        self.expiries.append(self.now + 2.0)
        self.take(self.at.on_request(to, message, self.now + 2.0, self.now, WALL))

    def ring(self, which: int) -> None:
        """A slot changes hands; its giver says so, and nobody else knows it yet."""
        before, key, copy = self.rings[-1], MATES[which // 3 % len(MATES)], which % 3
        self.rings.append(_with_move(before, key, copy, which))
        self.learn(before.owners(partition_of(key, 16))[copy], len(self.rings) - 1)

    def hear(self, which: int) -> None:
        """Somebody hears of the latest ring."""
        self.learn([HERE, *NODES][which % 7], len(self.rings) - 1)

    def learn(self, who: bytes, ring: int) -> None:
        if ring > self.knows[who]:
            self.knows[who] = ring
            if who == HERE:
                self.take(self.at.on_ring(self.rings[ring], self.now, WALL))

    def told(self, which: int) -> None:
        """Both know the same then, or, now and then, could not tell each other."""
        if self.exchanges:
            node = self.exchanges.pop(which % len(self.exchanges))
            if which % 7:
                ring = max(self.knows[node], self.knows[HERE])
                self.learn(node, ring)
                self.learn(HERE, ring)
            self.take(self.at.on_exchanged(node, self.now, WALL))

    def suspect(self, which: int) -> None:
        before = self.at.desk.suspected
        some = {NODES[which % 6], NODES[which // 6 % 6]} if which % 4 else set()
        suspected = frozenset(some)
        self.take(self.at.on_suspected(suspected, suspected - before, self.now, WALL))

    def wake(self, which: int) -> None:
        due = self.at.wakes_at()
        self.now = max(self.now, due or 0.0) + 0.001
        self.take(self.at.on_wake(self.now, WALL, lambda node: 1e9))

    def tick(self, which: int) -> None:
        self.now += which / 20
        self.take(self.at.on_tick(self.now, WALL))
        late = {to for to, expires in enumerate(self.expiries) if expires <= self.now}
        assert late <= set(self.answered), "a caller waits for longer than it said"

    def ok(self, which: int) -> None:
        self.reply(which, lambda call: self.answer(call, refuses=()))

    def all(self, which: int) -> None:
        """Whoever was asked answers, in one order or the other."""
        for _ in range(len(self.calls)):
            self.ok(-(which & 1))

    def some(self, which: int) -> None:
        """The first key of a mint is refused; a fetch finds nothing."""
        self.reply(which, lambda call: self.answer(call, refuses=(0,)))

    def refuse(self, which: int) -> None:
        self.reply(which, lambda call: self.no(call, Code.NOT_READY))

    def lost(self, which: int) -> None:
        self.fail(which, maybe_applied=True)

    def unsent(self, which: int) -> None:
        self.fail(which, maybe_applied=False)

    def reply(self, which: int, answer: Any) -> None:
        if self.calls:
            call = self.calls.pop(which % len(self.calls))
            ring = self.rings[self.knows[call.node]]
            if {ring.epoch_of(p) for p in call.message.partitions} == {call.epoch}:
                message = answer(call)
            else:
                message = self.no(call, Code.OTHER_EPOCH)
            late = self.at.late_replies
            out = self.at.on_reply(call.call, message, self.now, WALL)
            if isinstance(message, Minted) and late == self.at.late_replies:
                ids = zip(call.message.put_ids, message.states, strict=True)
                self.known.update(put_id for put_id, held in ids if held is not None)
            self.take(out)

    def fail(self, which: int, maybe_applied: bool) -> None:
        if self.calls:
            call = self.calls.pop(which % len(self.calls))
            if isinstance(call.message, Mint) and not maybe_applied:
                self.not_minted(call.message.put_ids)
            self.take(self.at.on_failure(call.call, maybe_applied, self.now, WALL))

    def answer(self, call: ToNode, refuses: Sequence[int]) -> Any:
        message, letter = call.message, chr(call.node[0])
        if isinstance(message, Fetch):
            held = [state(version(dot(letter, 1), key + b"|")) for key in message.keys]
            return Fetched([None if row in refuses else one for row, one in enumerate(held)])
        if isinstance(message, Merge):
            for held in message.states:
                for one in decode(held).versions:
                    self.hold(one.put_id, call)
            return Merged()
        states: list[bytes | None] = []
        for row, put_id in enumerate(message.put_ids):
            if row in refuses:
                self.not_minted([put_id])
            states.append(None if row in refuses else self.mint(message.keys[row], put_id, call))
        codes = [Code.TOO_MANY_SIBLINGS if held is None else Code.OK for held in states]
        return Minted(states, [held and clock_of(held) for held in states], codes)

    def mint(self, key: bytes, put_id: bytes, call: ToNode) -> bytes:
        self.dots += 1
        made = version(dot(chr(call.node[0]), 1, life=self.dots), key + b"|")
        self.minted[put_id].add(made.dot)
        self.hold(put_id, call)
        return state(made._replace(put_id=put_id))

    def hold(self, put_id: bytes, call: ToNode) -> None:
        """A copy counts; under a strict quorum only at an owner."""
        if not (call.message.hint_for and self.asked[put_id[0]].strict):
            self.holders[put_id].add(call.node)

    def no(self, call: ToNode, code: Code) -> Refused:
        if isinstance(call.message, Mint):
            self.not_minted(call.message.put_ids)
        return Refused(code)

    def not_minted(self, put_ids: Sequence[bytes]) -> None:
        for put_id in put_ids:
            self.doubts[put_id] -= 1

    # What must be true of what comes of it.

    def take(self, out: list[Any]) -> None:
        for effect in out:
            if isinstance(effect, ToNode):
                self.judge_call(effect)
                self.calls.append(effect)
            elif isinstance(effect, ToClient):
                self.answered.append(effect.to)
                self.judge(self.asked[effect.to], effect.message)
            else:
                assert effect.node not in self.exchanges
                self.exchanges.append(effect.node)

    def judge_call(self, call: ToNode) -> None:
        message = call.message
        assert call.timeout_s >= 0
        assert self.has_one_epoch(message.partitions, call.epoch), "keys of different owners"
        if isinstance(message, Mint):
            assert self.known.isdisjoint(message.put_ids), "minted, and asked for again"
            for put_id in message.put_ids:
                self.doubts[put_id] += 1
        elif isinstance(message, Merge):
            for key, held in zip(message.keys, message.states, strict=True):
                assert all(one.payload == key + b"|" for one in decode(held).versions)

    def has_one_epoch(self, partitions: Sequence[int], epoch: bytes) -> bool:
        return any({ring.epoch_of(p) for p in partitions} == {epoch} for ring in self.rings)

    def judge(self, asked: Any, told: Any) -> None:
        failed = {failure.index: failure for failure in told.failures}
        for row, key in enumerate(asked.keys):
            if isinstance(told, PutDone):
                self.judge_put(asked, row, told.contexts[row], failed.get(row))
            elif row in failed:
                assert told.states[row] is None
            elif told.states[row] is not None:
                assert all(v.payload == key + b"|" for v in decode(told.states[row]).versions)

    def judge_put(self, asked: Any, row: int, token: bytes | None, failure: Any) -> None:
        put_id = asked.put_ids[row]
        assert (token is None) == (failure is not None)
        if token is not None:
            clock = KEYS.open(asked.keys[row], token)
            assert clock is not None, "a context of another row"
            seen = {Dot(*one) for one in decode_clock(clock).vector.items()}
            assert seen and seen <= self.minted[put_id]
            assert len(self.holders[put_id]) >= asked.w
        elif failure.code != Code.UNKNOWN:
            assert failure.code in (Code.UNAVAILABLE, Code.TOO_MANY_SIBLINGS)
            assert not self.doubts[put_id], "called a failure what may have been applied"


def _some(which: int) -> list[bytes]:
    """Keys that share a route, and, before, behind or between them, one of another."""
    keys = MATES[: 2 + which // 2 % 2]
    if which % 4:
        keys.insert(which % 4 - 1, OTHERS[which % len(OTHERS)])
    return keys


_CALLS = "ok ok ok all some refuse lost unsent"
_steps = st.lists(
    st.tuples(
        st.sampled_from(
            f"put put get ring ring hear told told suspect wake wake tick {_CALLS}".split()
        ),
        st.integers(0, 35),
    ),
    min_size=40,
    max_size=60,
)


@given(_steps)
def test_every_request_is_answered_once_and_truly_and_leaves_nothing_behind(
    steps: list[tuple[str, int]],
) -> None:
    driver = Driver()
    at = driver.at
    for what, which in steps:
        driver.now += 0.02
        getattr(driver, what)(which)
    while driver.exchanges:
        driver.told(0)
    driver.now += 100
    driver.tick(0)
    driver.now += 100
    driver.tick(0)
    assert sorted(driver.answered) == list(range(len(driver.asked)))
    assert at.in_flight == 0 and not at._refused
    assert not at._open._by_call and not at._open.unanswered and at.wakes_at() is None
