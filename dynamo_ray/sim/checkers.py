"""Pure functions from a history to a verdict with its evidence, in the manner of Jepsen's checkers.

Causality is tracked exactly, by dots. A put with a context supersedes what its reader saw; a blind
put what the minting node held (ground truth); a concurrent put nothing. The closure of a set of
versions is what they supersede, directly or not. A state is sound if its clock covers exactly the
closure of its versions: covering more means that something was dropped that nobody replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_ray.core.clock import Clock, Dot
from dynamo_ray.core.context import CLOCK_AT
from dynamo_ray.core.merge import merge
from dynamo_ray.core.mint import CONCURRENT
from dynamo_ray.core.remains import dead_since_ms
from dynamo_ray.core.version import Kind, Version, hide_expired, purged
from dynamo_ray.sim.history import FAILED, OK, History, Minted, Read, Reaped, Write, decode
from dynamo_ray.sim.world import EPOCH_MS, MILLISECOND

FOR_EVER = 1 << 62


class Verdict(NamedTuple):
    """What a checker found: nothing (`ok`), or sentences that say what and where."""

    checker: str
    evidence: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.evidence


@dataclass(slots=True)
class KeyTruth:
    """The causality of one key: its mints by dot, and what each supersedes."""

    mints: dict[Dot, Minted]
    of_write: dict[int, list[Dot]]
    direct: dict[Dot, frozenset[Dot]]
    partial: bool
    reaped: list[Reaped]

    def let_go(self, until: int) -> set[Dot]:
        """The dead versions that a node had let go of by then, and what they had replaced."""
        found: set[Dot] = set()
        for one in self.reaped:
            gone = decode(one.before)
            if one.at <= until and one.after is None and 0 < dead_since_ms(gone) <= one.limit_ms:
                found |= self.closure(version.dot for version in gone.versions)
        return found

    def forgettable(self) -> set[Dot]:
        """What a clock may have forgotten: all that a state had seen before a reap."""
        found: set[Dot] = set()
        for one in self.reaped:
            found |= self.covered(decode(one.before).clock)
        return found

    def closure(self, dots: Iterable[Dot]) -> set[Dot]:
        """These dots and all that they supersede, directly or not."""
        found: set[Dot] = set()
        todo = list(dots)
        while todo:
            dot = todo.pop()
            if dot not in found:
                found.add(dot)
                todo.extend(self.direct.get(dot, ()))
        return found

    def covered(self, clock: Clock) -> set[Dot]:
        """The dots ever minted for the key that a clock covers."""
        return {dot for dot in self.mints if clock.covers(dot)}


class Truth:
    """A history with its causality worked out, key by key; made once, shared by the checkers."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.writes: dict[int, Write] = {write.number: write for write in history.writes}
        self.keys: dict[bytes, KeyTruth] = {}
        for minted in history.mints:
            self._take(minted)
        for key, reaped in history.reaped.items():
            self.of(key).reaped.extend(reaped)

    def of(self, key: bytes) -> KeyTruth:
        """The causality of a key."""
        return self.keys.setdefault(key, KeyTruth({}, {}, {}, False, []))

    def _take(self, minted: Minted) -> None:
        truth = self.of(minted.key)
        if minted.dot in truth.mints:
            return  # `unique_dots` says so
        truth.mints[minted.dot] = minted
        truth.of_write.setdefault(minted.write, []).append(minted.dot)
        if minted.context is None:
            direct = frozenset(minted.replaced)
        elif minted.context == CONCURRENT:
            direct = frozenset()
        else:
            seen = truth.covered(decode(minted.context).clock)
            truth.partial = truth.partial or seen != truth.closure(seen)
            direct = frozenset(seen)
        truth.direct[minted.dot] = direct


def nothing_lost(truth: Truth) -> Iterable[str]:
    """Every acknowledged write is in the merge of all copies after the calm, or was superseded.

    But those whose every copy went with a machine's power or disk: `History.on_forgotten`.
    """
    kept: dict[bytes, set[Dot]] = {}
    for write in truth.history.writes:
        if write.outcome != OK or write.number in truth.history.lost:
            continue
        of = truth.of(write.key)
        if write.key not in kept:
            states = truth.history.finals.get(write.key, {}).values()
            kept[write.key] = of.closure(v.dot for v in _merged(states)) | of.let_go(FOR_EVER)
        dots = of.of_write.get(write.number, [])
        if not kept[write.key].intersection(dots):
            yield f"write {write.number} of {write.key!r} was acknowledged and is nowhere"


def nothing_invented(truth: Truth) -> Iterable[str]:
    """Every version ever shown was put, with that value, and not by a write that failed."""
    for where, key, state in _shown(truth.history):
        of = truth.of(key)
        for version in decode(state).versions:
            minted = of.mints.get(version.dot)
            if minted is None:
                yield f"{where} shows {version.dot} of {key!r}, which nobody minted"
                continue
            write = truth.writes[minted.write]
            if write.outcome == FAILED:
                yield f"{where} shows write {write.number} of {key!r}, which was told failed"
            if version.kind == Kind.PURGED and not version.expiry_ms:
                yield f"{where} shows write {write.number} of {key!r} purged, which never expires"
            if not _is_of(version, write):
                yield f"{where} shows write {write.number} of {key!r} with another value"


def siblings_sound(truth: Truth) -> Iterable[str]:
    """A state's clock covers exactly its versions and what they supersede; no version is both."""
    for where, key, state in _shown(truth.history):
        of, decoded = truth.of(key), decode(state)
        dots = {version.dot for version in decoded.versions}
        closure, covered = of.closure(dots), of.covered(decoded.clock)
        if dropped := covered - closure:
            writes = sorted(of.mints[dot].write for dot in dropped)
            yield f"{where} covers writes {writes} of {key!r} and nothing it shows replaced them"
        if of.partial:
            continue
        if missed := closure - covered - (dots - covered) - of.forgettable():
            writes = sorted(of.mints[dot].write for dot in missed)
            yield f"{where} shows what replaced writes {writes} of {key!r} and does not cover them"
        for dot in dots:
            if dot in of.closure(dots - {dot}):
                yield f"{where} shows {dot} of {key!r} beside what replaced it"


def contexts_sound(truth: Truth) -> Iterable[str]:
    """A context covers only what its reader read, or its writer wrote or replaced (rule 5)."""
    for read in truth.history.reads:
        if read.outcome == OK and read.state is not None:
            of = truth.of(read.key)
            seen = of.closure(v.dot for v in decode(read.state).versions)
            if of.covered(decode(read.token[CLOCK_AT:]).clock) - seen:
                text = "has a context that covers what was not shown"
                yield f"{_reader(read)} of {read.key!r} {text}"
    for write in truth.history.writes:
        if write.outcome == OK and write.token is not None:
            yield from _unseen(truth, write, decode(write.token[CLOCK_AT:]).clock)


def _unseen(truth: Truth, write: Write, clock: Clock) -> Iterable[str]:
    of = truth.of(write.key)
    own = [dot for dot in of.of_write.get(write.number, []) if clock.covers(dot)]
    if not own:
        yield f"the context of write {write.number} does not cover its own dot"
    seen = of.closure(own)
    if write.context:
        seen |= of.closure(of.covered(decode(write.context[CLOCK_AT:]).clock))
    if covered := of.covered(clock) - seen:
        writes = sorted(of.mints[dot].write for dot in covered)
        yield f"the context of write {write.number} covers writes {writes}, never read nor replaced"


def unique_dots(truth: Truth) -> Iterable[str]:
    """No dot is minted twice, and no writer id serves two keys."""
    dots: dict[tuple[bytes, Dot], int] = {}
    writers: dict[bytes, bytes] = {}
    for minted in truth.history.mints:
        first = dots.setdefault((minted.key, minted.dot), minted.write)
        if first != minted.write or truth.of(minted.key).mints[minted.dot] is not minted:
            yield f"{minted.dot} of {minted.key!r} was minted for writes {first} and {minted.write}"
        if writers.setdefault(minted.dot.writer, minted.key) != minted.key:
            yield f"the writer of {minted.dot} served two keys"


def copies_equal(truth: Truth) -> Iterable[str]:
    """After the calm all owners of a key hold equal bytes, and nobody else holds any.

    Where they compare their copies, that is so before anybody reads the key, too.
    """
    if not truth.history.calm:
        yield "the calm did not come: hints, operations or reads were left when its time was up"
    moments = ("before any read", truth.history.unread), ("in the end", truth.history.finals)
    for when, held in moments:
        for key, copies in held.items():
            owners = truth.history.owners[key]
            if not are_equal(copies, owners):
                there = [owner for owner in owners if owner in copies]
                yield f"the owners of {key!r} differ {when}; {there} of {owners} hold it"
            if strangers := sorted(set(copies) - set(owners)):
                yield f"{strangers} still hold {key!r} {when} and do not own it"


def are_equal(copies: Mapping[str, bytes], owners: Iterable[str]) -> bool:
    """True if all owners hold the same, purged or not (rule 13)."""
    return len({_same(copies.get(owner)) for owner in owners}) <= 1


def reads_see_writes(truth: Truth) -> Iterable[str]:
    """Where R + W > N, a read of R owners sees every strict write that was acknowledged before it.

    A strict read is one, and a sloppy one that is not marked degraded: a stand-in's "I hold
    nothing" never counts (rule 9), nor does an owner that may have lost what it acknowledged. So
    this holds after power losses and damage, too, at every level; `_is_out_of_sight` is what not.
    """
    terms = truth.history.terms
    acked = [w for w in truth.history.writes if w.outcome == OK and w.strict]
    for read in truth.history.reads:
        if read.outcome != OK or read.degraded:
            continue
        of = truth.of(read.key)
        shown = decode(read.state).versions if read.state is not None else ()
        seen = of.closure(version.dot for version in shown) | of.let_go(read.ended)
        for write in acked:
            due = write.key == read.key and write.ended < read.invoked
            if due and write.w + read.r > terms.n:
                is_seen = seen.intersection(of.of_write.get(write.number, []))
                if is_seen or _is_of_ousted(truth.history, read):
                    continue
                if not _is_out_of_sight(truth.history, write, read):
                    yield f"{_reader(read)} of {read.key!r} missed write {write.number}"


def expired_hidden(truth: Truth) -> Iterable[str]:
    """With clocks that agree, nobody is shown a value whose time was up when the read began."""
    if truth.history.terms.skew_ms:
        return
    for read in truth.history.reads:
        for version in decode(read.state).versions if read.state is not None else ():
            began_ms = _ms(read.invoked)
            if version.kind == Kind.VALUE and 0 < version.expiry_ms < began_ms:
                yield f"{_reader(read)} shows a value of {read.key!r} that had expired"
            if version.kind == Kind.PURGED and version.expiry_ms > _ms(read.ended) + 1:
                yield f"{_reader(read)} hides a value of {read.key!r} that had not expired"


def nothing_revived(truth: Truth) -> Iterable[str]:
    """Once a dead key was reaped nobody is shown again what it had replaced (rule 12)."""
    for where, key, state, at in _shown_at(truth.history):
        of = truth.of(key)
        for reaped in of.reaped:
            if at <= reaped.at:
                continue
            gone = decode(reaped.before)
            old = of.covered(gone.clock) - {version.dot for version in gone.versions}
            if back := old.intersection(version.dot for version in decode(state).versions):
                writes = sorted(of.mints[dot].write for dot in back)
                yield f"{where} shows writes {writes} of {key!r} again, replaced and then reaped"


def elements_kept(truth: Truth) -> Iterable[str]:
    """In a set or a cart, what was added and acknowledged is there, unless somebody removed it."""
    history = truth.history
    for key, style in history.styles.items():
        if style not in ("set", "cart"):
            continue
        final = set()
        for version in _merged(history.finals.get(key, {}).values()):
            final |= elements(version.payload)
        writes = [write for write in history.writes if write.key == key]
        removed = {one for w in writes if w.outcome != FAILED for one in elements(w.value, b"-")}
        for write in writes:
            missing = elements(write.value, b"+") - final - removed
            if write.outcome == OK and missing and write.number not in history.lost:
                yield f"the {style} {key!r} misses {sorted(missing)} of write {write.number}"


def no_breach(truth: Truth) -> Iterable[str]:
    """Nothing was seen that must never be, at the moment it happened."""
    for breach in truth.history.breaches:
        yield f"{breach.rule}, at {breach.at / 1e6:.6f} s: {breach.text}"


CHECKERS: tuple[Callable[[Truth], Iterable[str]], ...] = (
    nothing_lost,
    nothing_invented,
    siblings_sound,
    contexts_sound,
    unique_dots,
    copies_equal,
    reads_see_writes,
    expired_hidden,
    nothing_revived,
    elements_kept,
    no_breach,
)


def check(history: History) -> tuple[Verdict, ...]:
    """All checkers' verdicts."""
    truth = Truth(history)
    return tuple(Verdict(one.__name__, tuple(one(truth))[:20]) for one in CHECKERS)


def elements(value: bytes | None, mark: bytes = b"") -> set[bytes]:
    """The elements in a value `number|element,…`; with a mark those it added (+) or removed (-)."""
    if value is None or b"|" not in value:
        return set()
    parts = value.split(b"|")
    if not mark:
        return set(filter(None, parts[1].split(b",")))
    changed = filter(None, parts[2].split(b",")) if len(parts) > 2 else ()
    return {one[1:] for one in changed if one[:1] == mark}


def _is_out_of_sight(history: History, write: Write, read: Read) -> bool:
    """What rule 9 does not promise where nodes forgot what they had acknowledged, before the read.

    No owner holds it any more. Or a node forgot it on the way of the answer: it was counted as a
    copy and was none. Or it asked for fewer copies than the cluster's W, for which fewer owners
    are compared than could have shown it.
    """
    forgot = [at for at in history.forgot(write) if at <= read.ended]
    if not forgot:
        return False
    is_gone = history.unowned.get(write.number, read.ended + 1) <= read.ended
    return is_gone or min(forgot) <= write.ended or write.w < history.terms.w


def _is_of_ousted(history: History, read: Read) -> bool:
    """True if perhaps one node alone answered, and it did not know that it had been replaced.

    With R of two or more another owner did, too, and none of those that count the heir answers
    under the ring before.
    """
    answers = history.read_at_ousted.get(read.key, ())
    return read.r == 1 and any(read.invoked <= at <= read.ended for at in answers)


def _merged(states: Iterable[bytes]) -> tuple[Version, ...]:
    merged: bytes | None = None
    for state in states:
        merged = state if merged is None else merge(merged, state)
    return decode(merged).versions if merged is not None else ()


def _shown(history: History) -> Iterable[tuple[str, bytes, bytes]]:
    """Every distinct state that anybody was shown, or holds in the end, with who."""
    seen: set[tuple[bytes, bytes]] = set()
    for read in history.reads:
        if read.state is not None and (read.key, read.state) not in seen:
            seen.add((read.key, read.state))
            yield _reader(read), read.key, read.state
    for key, copies in history.finals.items():
        for node, state in copies.items():
            if (key, state) not in seen:
                seen.add((key, state))
                yield f"{node} in the end", key, state


def _shown_at(history: History) -> Iterable[tuple[str, bytes, bytes, int]]:
    """Every state that was read, with when the read began, and what is held in the end."""
    for read in history.reads:
        if read.state is not None:
            yield _reader(read), read.key, read.state, read.invoked
    for key, copies in history.finals.items():
        for node, state in copies.items():
            yield f"{node} in the end", key, state, FOR_EVER


def _same(state: bytes | None) -> bytes | None:
    """What two copies have in common though one has purged an expired value already (rule 13)."""
    return None if state is None else hide_expired(state, FOR_EVER)


def _ms(at_us: int) -> int:
    return EPOCH_MS + at_us // MILLISECOND


def _reader(read: Read) -> str:
    return f"{read.client}'s read at {read.ended / 1e6:.6f} s"


def _is_of(version: Version, write: Write) -> bool:
    """True if a version is what a write asked for."""
    if write.value is None:
        return version.kind == Kind.TOMBSTONE
    if version.kind == Kind.VALUE:
        return version.payload == write.value
    whole = version._replace(kind=int(Kind.VALUE), payload=write.value)
    return version.kind == Kind.PURGED and purged(whole).payload == version.payload
