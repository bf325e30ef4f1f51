"""What clients invoked and were told, and the ground truth beside it: every mint, every log record.

Clients know only outcomes and opaque tokens. The simulator sees more: at each mint which dot was
made from which state, and so which versions it replaced; at each append what the log was given. The
checkers need both. Whatever is wrong at the very moment at which it happens (an answer before its
record, a copy at a stand-in without a hint) is kept as a breach, with its time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.remains import dead_since_ms, may_leave
from dynamo_ray.core.version import State, Version, purged
from dynamo_ray.core.version import decode as _decode

OK, FAILED, UNKNOWN, OPEN = "ok", "failed", "unknown", "open"


@lru_cache(maxsize=8192)
def decode(state: bytes) -> State:
    """The decoded state; copies of one state are equal bytes, so most are decoded once."""
    return _decode(state)


def _clock(state: bytes | None) -> Clock:
    return decode(state).clock if state is not None else Clock()


def _hold(clocks: list[Clock], dots: list[Dot]) -> bool:
    """True if any of the states holds, or replaced, what any of these dots was minted for."""
    return any(clock.covers(dot) for clock in clocks for dot in dots)


@dataclass(slots=True)
class Write:
    """One put or delete of one key, from its invocation to what the client was told last."""

    number: int
    client: str
    key: bytes
    value: bytes | None
    context: bytes | None
    put_id: bytes
    ttl_ms: int
    w: int
    strict: bool
    invoked: int
    ended: int = 0
    outcome: str = OPEN
    token: bytes | None = None
    attempts: int = 1


@dataclass(slots=True)
class Read:
    """One get of one key. `state` is what the client received, `token` the context with it."""

    client: str
    key: bytes
    r: int
    strict: bool
    invoked: int
    ended: int = 0
    outcome: str = OPEN
    state: bytes | None = None
    token: bytes = b""
    degraded: bool = False


class Minted(NamedTuple):
    """Ground truth of one mint: the dot, the write it is for, and the states around it."""

    dot: Dot
    write: int
    key: bytes
    node: str
    at: int
    context: bytes | None
    before: bytes | None
    after: bytes

    @property
    def replaced(self) -> tuple[Dot, ...]:
        """The versions that the node held before and no longer after."""
        if self.before is None:
            return ()
        kept = {version.dot for version in decode(self.after).versions}
        return tuple(v.dot for v in decode(self.before).versions if v.dot not in kept)


class Reaped(NamedTuple):
    """A node let go of a dead key, or of its clock's old entries: when, and what it had been.

    By its own clock what had ended or changed after `limit_ms` was younger than the grace.
    """

    at: int
    node: str
    before: bytes
    after: bytes | None
    limit_ms: int


class Breach(NamedTuple):
    """Something that must never be, seen at the moment at which it was."""

    rule: str
    at: int
    text: str


@dataclass(slots=True)
class Terms:
    """What the run was about, as far as it decides what may be asserted."""

    n: int = 3
    r: int = 2
    w: int = 2
    durability: str = "written"
    skew_ms: int = 0


@dataclass(slots=True)
class History:
    """Everything that the checkers judge.

    What every node held of every key in the end: `finals` after all were read, `unread` before
    that, where owners compare their copies.
    """

    terms: Terms = field(default_factory=Terms)
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    mints: list[Minted] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    logged: dict[tuple[bytes, Dot], Version] = field(default_factory=dict)
    owners: dict[bytes, tuple[str, ...]] = field(default_factory=dict)
    unread: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    finals: dict[bytes, dict[str, bytes]] = field(default_factory=dict)
    styles: dict[bytes, str] = field(default_factory=dict)
    reaped: dict[bytes, list[Reaped]] = field(default_factory=dict)
    calm: bool = True
    by_put_id: dict[tuple[bytes, bytes], Write] = field(default_factory=dict)
    of_dot: dict[tuple[bytes, Dot], int] = field(default_factory=dict)
    known_at: dict[tuple[str, bytes], set[int]] = field(default_factory=dict)
    forgotten: dict[int, list[int]] = field(default_factory=dict)
    unowned: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    read_at_ousted: dict[bytes, list[int]] = field(default_factory=dict)

    def breach(self, rule: str, at: int, text: str) -> None:
        """Note something that must never be."""
        self.breaches.append(Breach(rule, at, text))

    def add_write(self, write: Write) -> None:
        """A client begins a put or a delete."""
        self.writes.append(write)
        self.by_put_id[write.key, write.put_id] = write

    def on_minted(
        self,
        node: str,
        at: int,
        key: bytes,
        put_id: bytes,
        context: bytes | None,
        before: bytes | None,
        after: bytes | None,
    ) -> Minted | None:
        """A node handled a mint of `key`: what it held before and after. None if it made no dot."""
        if after is None or after == before:
            return None
        seen = decode(before) if before is not None else State()
        old = {version.dot for version in seen.versions}
        new = [v.dot for v in decode(after).versions if v.dot not in old]
        write = self.by_put_id.get((key, put_id))
        if len(new) != 1 or write is None:
            self.breach("mint", at, f"{node} made {len(new)} dots in one mint of {key!r}")
            return None
        minted = Minted(new[0], write.number, key, node, at, context, before, after)
        self.mints.append(minted)
        self.of_dot.setdefault((key, minted.dot), write.number)
        if write.number in self.known_at.get((node, key), ()):
            self.breach("retry", at, f"{node} minted write {write.number} again, which it knew")
        self._check_replaced(minted, seen)
        return minted

    def on_logged(self, node: str, at: int, key: bytes, state: bytes, finds: bool = True) -> None:
        """A record went into a log: one dot is one version, for ever and everywhere.

        In the log of a node that was ousted nobody finds again what was lost.
        """
        if self.lost and finds:
            # It was on its way to here when it was lost there.
            dots, clocks = self._dots_of(key), [decode(state).clock]
            self.lost -= {number for number in self.lost if _hold(clocks, dots.get(number, []))}
        for version in decode(state).versions:
            known = self.logged.setdefault((key, version.dot), version)
            write = self.of_dot.get((key, version.dot))
            if write is not None:
                self.known_at.setdefault((node, key), set()).add(write)
            if known != version and purged(known) != purged(version):
                self.breach("dots", at, f"{node} logged another version as {version.dot}")

    def on_reaped(self, key: bytes, reaped: Reaped, others: Mapping[str, bytes]) -> None:
        """A node reaped; `others` is what any other node holds of the key, reachable or not.

        Nobody may hold what the reaped state had seen replaced: it would come back (rule 12).
        """
        self.reaped.setdefault(key, []).append(reaped)
        gone = decode(reaped.before)
        dead = {version.dot for version in gone.versions}
        if not may_leave(gone, reaped.limit_ms) or (
            reaped.after is None and not dead_since_ms(gone)
        ):
            text = f"{reaped.node} reaped {key!r}, which is alive or too young"
            self.breach("reap", reaped.at, text)
        for name, state in others.items():
            old = [v.dot for v in decode(state).versions if v.dot not in dead]
            if any(gone.clock.covers(dot) for dot in old):
                text = f"{reaped.node} reaped {key!r} while {name} held what it had replaced"
                self.breach("reap", reaped.at, text)

    def on_forgotten(
        self,
        key: bytes,
        at: int,
        found: tuple[bytes, bytes | None],
        at_owners: Iterable[bytes | None],
        anywhere: Iterable[bytes | None],
    ) -> bool:
        """A node that stopped `at` held one state then and found another; True if it lost a write.

        What no other owner holds then cannot be seen by reads of owners any more; what nobody holds
        is lost, by its number in `lost`. Nothing else may be.
        """
        before, after = decode(found[0]).clock, _clock(found[1])
        owners, everybody = list(map(_clock, at_owners)), list(map(_clock, anywhere))
        has_forgotten = False
        for number, dots in self._dots_of(key).items():
            if not _hold([before], dots) or _hold([after], dots):
                continue
            has_forgotten = True
            self.forgotten.setdefault(number, []).append(at)
            if not _hold(owners, dots):
                self.unowned.setdefault(number, at)
            if not _hold(everybody, dots):
                self.lost.add(number)
        return has_forgotten

    def on_acknowledged_at_ousted(
        self, write: Write, at: int, there: Iterable[bytes | None]
    ) -> None:
        """A client was told ok; `there` is what the nodes hold whose place nobody else has.

        Where W is one, a node that does not know yet that it was replaced acknowledges alone.
        """
        dots = self._dots_of(write.key).get(write.number, [])
        if write.w == 1 and not _hold(list(map(_clock, there)), dots):
            self.forgotten.setdefault(write.number, []).append(at)
            self.unowned.setdefault(write.number, at)
            self.lost.add(write.number)

    def on_read_at_ousted(self, keys: Iterable[bytes], at: int) -> None:
        """A node answered for these keys that does not know yet that it was replaced."""
        for key in keys:
            self.read_at_ousted.setdefault(key, []).append(at)

    def forgot(self, write: Write) -> list[int]:
        """The times, since it was invoked, at which a node lost its copy of a write."""
        return [at for at in self.forgotten.get(write.number, ()) if at >= write.invoked]

    def _dots_of(self, key: bytes) -> dict[int, list[Dot]]:
        """The dots that were minted for each write of a key."""
        found: dict[int, list[Dot]] = {}
        for (of, dot), number in self.of_dot.items():
            if of == key:
                found.setdefault(number, []).append(dot)
        return found

    def forget_what(self, node: str) -> None:
        """The node let go of old records: it need not know a retry of what they held."""
        for where in [where for where in self.known_at if where[0] == node]:
            del self.known_at[where]

    def on_acknowledged(self, write: Write, at: int, states: Iterable[bytes | None]) -> None:
        """A client was told ok; `states` are what the logs hold of the key now, node by node.

        A delete may be reaped before that: a repeat of it found it everywhere, and was answered
        late. All owners held it then (`on_reaped`, rule 12), so its copies are not missing.
        """
        clocks = [decode(state).clock for state in states if state is not None]
        dots = self._dots_of(write.key).get(write.number, [])
        copies = max((sum(c.covers(dot) for c in clocks) for dot in dots), default=0)
        gone = [decode(one.before) for one in self.reaped.get(write.key, ()) if one.after is None]
        is_reaped = any(v.dot in dots for state in gone for v in state.versions)
        if copies < write.w and not is_reaped:
            text = f"write {write.number} was acknowledged with {copies} of {write.w} copies"
            self.breach("quorum", at, text)

    def _check_replaced(self, minted: Minted, seen: State) -> None:
        """Rule 4, by a dumb twin: what each manner of put replaces."""
        if minted.context is None:
            due = {version.dot for version in seen.versions}
        elif minted.context == CONCURRENT:
            due = set()
        else:
            clock = decode(minted.context).clock
            due = {v.dot for v in seen.versions if clock.covers(v.dot)}
        if set(minted.replaced) != due:
            did = f"replaced {len(minted.replaced)} versions and was to replace {len(due)}"
            text = f"write {minted.write} {did}, at {minted.node}"
            self.breach("replaces", minted.at, text)
