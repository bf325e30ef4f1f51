"""For each rule of DESIGN §5 that can be simulated: without its guard a directed tape fails.

A guard is removed here, by replacing a function for the length of a test; the code that ships has
no switches. The tape is a few faults around one hot key, written in roles (the key's first owner,
its first stand-in), on a small world. Without the guard one of a few seeds must fail, within two
seconds of work, and say so by the checker that is meant for it; with it the same seed must pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from dynamo_ray.core import (
    compare,
    coordinator,
    forest,
    forget,
    get,
    handover,
    hints,
    inheriting,
    lives,
    made,
    merkle,
    mint,
    node,
    put,
    reap,
    rebuild,
    receive,
    replica,
    requests,
    rounds,
    serving,
    slots,
    sync,
)
from dynamo_ray.core import merge as merging
from dynamo_ray.core.attempts import Attempts
from dynamo_ray.core.comparison import Comparison
from dynamo_ray.core.messages import Code, Fetch, Fetched, Merge, Mint, Reply, Send
from dynamo_ray.core.plain import Plain
from dynamo_ray.core.remains import may_leave
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.slots import Placement
from dynamo_ray.core.unlogged import Unlogged
from dynamo_ray.core.unpersisted import Changes, Unpersisted
from dynamo_ray.core.upkeep import (
    Compared,
    Confirm,
    Copied,
    Copy,
    Offer,
    Offered,
    Reap,
    Seal,
    Sealed,
)
from dynamo_ray.core.version import (
    MalformedStateError,
    State,
    clock_of,
    decode,
    encode,
    hide_expired,
    is_expired,
)
from dynamo_ray.sim import journal, nodes
from dynamo_ray.sim.faults import Fault
from dynamo_ray.sim.network import Weather
from dynamo_ray.sim.plan import Plan
from dynamo_ray.sim.run import Run, run_seed
from dynamo_ray.storage import recovery, snapshot
from dynamo_ray.storage.errors import StorageError, SyncFailedError
from dynamo_ray.storage.log import Log, segment_path
from dynamo_ray.storage.store import Store

MS = 1000
SEEDS, SECONDS = 60, 2.0
Roles = tuple[str, ...]  # the key's owners, then its stand-ins, by name
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Guard:
    """A rule's guard: how to remove it, where that shows, and which checkers must say so."""

    rule: str
    name: str
    remove: Callable[[Patch], None]
    plan: Plan
    tape: Callable[[Roles], list[Fault]]
    caught_by: tuple[str, ...]
    # The seed to begin with: one that is known to find it, where many do not.
    seed: int = 0

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.name}"


def down(role: str, at_ms: int, for_ms: int, kind: str = "crash") -> Fault:
    return Fault(kind, role, at_us=at_ms * MS, for_us=for_ms * MS)


def point(kind: str, role: str, host: str, event: str, count: int, for_ms: int = 200) -> Fault:
    return Fault(kind, role, for_us=for_ms * MS, after=(host, event, count))


def nothing_is_plain(
    self: Plain, message: Mint, now_ms: int, changes: object, general: Callable[[int], bytes]
) -> list[bytes]:
    """So that the general way, which is patched, is taken."""
    return list(map(general, range(len(message.keys))))


# ---- worlds: one hot key, few clients

HOT = Plan(clients=3, operations=10, think_us=30 * MS, tick_s=0.1, suspect_s=0.3, strict_share=0.0)
ONE_COPY = replace(HOT, nodes=2, n=1, r=1, w=1, context_share=0.2, delete_share=0.0)
LONE = replace(ONE_COPY, nodes=1, repeats=0)
LONGER = replace(ONE_COPY, operations=40)
THREE = replace(HOT, nodes=4)
LOSSY = Weather(kept_by_cut=0.0)


def nothing(roles: Roles) -> list[Fault]:
    return []


def owner_comes_and_goes(roles: Roles) -> list[Fault]:
    """The first owner is away three times, so its stand-in mints, hands home and forgets."""
    return [down(roles[0], at, 250) for at in (10, 600, 1200)]


def everybody_restarts(roles: Roles) -> list[Fault]:
    return [*owner_comes_and_goes(roles), *(down(roles[1], at, 20) for at in (480, 1080))]


def third_owner_misses_the_end(roles: Roles) -> list[Fault]:
    return [down(roles[2], 100, 60_000)]


def third_owner_hangs_at_the_end(roles: Roles) -> list[Fault]:
    """It was compared with before, and hangs from then on."""
    return [down(roles[2], 2600, 60_000, "pause")]


def third_owner_is_often_away(roles: Roles) -> list[Fault]:
    return [down(roles[2], at, 500) for at in (400, 1500, 2600)]


def crash_after_mints(roles: Roles) -> list[Fault]:
    return [point("crash", roles[0], roles[0], "Mint", count) for count in (2, 4, 6)]


def full_disks(roles: Roles) -> list[Fault]:
    return [down(role, at, 120, "full") for at in (50, 300, 550) for role in roles[:2]]


def full_between_append_and_sync(roles: Roles) -> list[Fault]:
    return [point("full", roles[0], roles[0], "appended", count, 30) for count in (1, 3, 5, 7)]


def coordinators_die(roles: Roles) -> list[Fault]:
    return [
        point("coordinator", name, name, kind, count)
        for name in ("c1", "c2")
        for kind, count in (("Minted", 2), ("ClientPut", 3), ("Minted", 6))
    ]


def slow_owner(roles: Roles) -> list[Fault]:
    """The owner that mints is paused: a late mint, and a second one by the next candidate."""
    return [point("pause", roles[0], roles[0], "Mint", n, 450) for n in (1, 3, 5)]


def full_when_it_comes_home(roles: Roles) -> list[Fault]:
    """The owner is back and ready, and its disk is full when the copies come home."""
    return [down(roles[0], 10, 300), point("full", roles[0], roles[0], "incarnation", 1, 600)]


def power_after_handoff(roles: Roles) -> list[Fault]:
    return [down(roles[0], 10, 300), point("power", roles[0], roles[0], "appended", 1, 100)]


def power_at_one_of_two_that_knew(roles: Roles) -> list[Fault]:
    """One of the two that acknowledged loses it, and the other is away when the third is back."""
    third, other = down(roles[2], 0, 230, "split"), down(roles[1], 235, 700, "split")
    return [third, down(roles[0], 225, 20, "power"), other]


def both_that_knew_lose_power(roles: Roles) -> list[Fault]:
    """Two owners lose what all three had acknowledged, while the third is out of reach."""
    away = down(roles[2], 240, 900, "split")
    return [away, *(down(role, 250, 20, "power") for role in roles[:2])]


def failed_fsync_then_power(roles: Roles) -> list[Fault]:
    """The power goes when the other owners hear of what that fsync was for."""
    minter, other = roles[:2]
    return [
        point(kind, minter, host, event, count, 50)
        for count in (2, 5)
        for kind, host, event in (("fsync", minter, "Mint"), ("power", other, "Merge"))
    ]


def failed_fsync_then_power_at_the_next_start(roles: Roles) -> list[Fault]:
    fails = point("fsync", roles[0], roles[0], "Mint", 2, 50)
    return [fails, point("power", roles[0], roles[0], "incarnation", 1, 50)]


def flips_under_a_stopped_node(roles: Roles) -> list[Fault]:
    return [down(roles[0], at, 100) for at in (200, 500)] + [
        down(roles[0], at, 20, "flip") for at in (220, 240, 520, 540)
    ]


def flips_after_a_snapshot(roles: Roles) -> list[Fault]:
    """A snapshot is taken every 700 ms."""
    bits = replace(down(roles[0], 540, 20, "flip"), other="snap-0000000000000001/p")
    return [bits, down(roles[0], 545, 60)]


def power_and_a_flip(roles: Roles) -> list[Fault]:
    """The last frame that was synced is damaged when the power comes back."""
    bit = replace(point("flip", roles[0], roles[0], "synced", 1, 20), other="log-")
    return [point("power", roles[0], roles[0], "synced", 1, 100), *[bit] * 3]


def unreadable_at_a_start(roles: Roles) -> list[Fault]:
    return [down(roles[0], at, 60, "unreadable") for at in (150, 350, 550)]


def the_two_that_knew(roles: Roles) -> list[Fault]:
    """One owner misses what the two others acknowledged; then these are away."""
    away = down(roles[2], 0, 200, "split")
    return [away, down(roles[0], 210, 500), down(roles[1], 210, 500)]


def both_die(roles: Roles) -> list[Fault]:
    """The coordinator, and then the only node, right after a mint was sent and applied."""
    deaths = [point("crash", roles[0], roles[0], "Mint", count, 300) for count in (2, 4, 6, 8)]
    for name in ("c1", "c2"):
        deaths += [point("coordinator", name, name, "ClientPut", count) for count in (2, 4, 6)]
    return deaths


def one_hangs_one_dies(roles: Roles) -> list[Fault]:
    """The coordinator is stopped and the only node dies, right after a mint was applied."""
    faults = [point("crash", roles[0], roles[0], "Mint", count, 1500) for count in (2, 4, 6)]
    for name in ("c1", "c2"):
        faults += [point("pause", name, name, "ClientPut", count, 1500) for count in (1, 3, 5)]
    return faults


def missed_by_one(roles: Roles) -> list[Fault]:
    """One owner and its stand-in hear nothing of each other, so a hint waits; all else is well."""
    link = [
        Fault("cut", a, at_us=0, for_us=9000 * MS, other=b)
        for a, b in ((roles[1], roles[3]), (roles[3], roles[1]))
    ]
    return [*(down(roles[1], at, 500) for at in (100, 1500, 3000)), *link]


def one_is_out_of_reach(roles: Roles) -> list[Fault]:
    """No coordinator reaches one of the owners, and every node does: it stays behind."""
    return [
        Fault("cut", a, at_us=1200 * MS, for_us=9000 * MS, other=b)
        for name in ("c1", "c2")
        for a, b in ((roles[1], name), (name, roles[1]))
    ]


def many_wrote_and_one_is_out_of_reach(roles: Roles) -> list[Fault]:
    return [down(roles[0], 300, 400), *one_is_out_of_reach(roles)]


def stand_in_goes_too(roles: Roles) -> list[Fault]:
    """As above, and then the stand-in is away with its hint."""
    return [*missed_by_one(roles)[:3], down(roles[3], 620, 2500), down(roles[3], 3520, 2500)]


def told_late(roles: Roles) -> list[Fault]:
    """What the first owner tells the second, after its questions, is under way for a while."""
    return [
        Fault("cut", roles[0], for_us=110 * MS, other=roles[1], after=(roles[1], "Confirm", count))
        for count in range(2, 60)
    ]


def coordinators_stop(roles: Roles) -> list[Fault]:
    """With what they have read and not yet given back, and for longer than the grace."""
    return [
        point("pause", name, name, event, count, 2600)
        for name in ("c1", "c2")
        for event, count in (("Fetched", 2), ("Fetched", 8), ("Minted", 3))
    ]


def power_after_confirming(roles: Roles) -> list[Fault]:
    return [point("power", roles[1], roles[1], "Confirm", 2, 100)]


def it_hands_over_and_goes(roles: Roles) -> list[Fault]:
    """A new node comes, and the only owner gives all it has to it."""
    return [Fault("join", "n1", at_us=20 * MS), Fault("leave", "n1", at_us=120 * MS)]


def receiver_loses_power(roles: Roles) -> list[Fault]:
    """Right after the slot has become its own."""
    lost = point("power", "n2", "n1", "published", 1, 100)
    return [*it_hands_over_and_goes(roles), lost]


def receiver_hears_of_nobody(roles: Roles) -> list[Fault]:
    """It has promised, loses its power, and does not hear that the slot has become its own."""
    at = ("n1", "Sealed", 1)
    links = [(a, b) for one in ("n1", "c1", "c2") for a, b in ((one, "n2"), ("n2", one))]
    cuts = [Fault("cut", a, for_us=1200 * MS, other=b, after=at) for a, b in links]
    return [*it_hands_over_and_goes(roles), Fault("power", "n2", for_us=1 * MS, after=at), *cuts]


def giver_loses_power(roles: Roles) -> list[Fault]:
    """It has given all away, and comes back where only one who never heard of it reaches it."""
    at = ("n1", "published", 1)
    links = [(a, b) for one in ("n2", "c2") for a, b in ((one, "n1"), ("n1", one))]
    return [
        *it_hands_over_and_goes(roles),
        Fault("power", "n1", for_us=20 * MS, after=at),
        Fault("coordinator", "c1", for_us=20 * MS, after=at),
        *(Fault("cut", a, for_us=1500 * MS, other=b, after=at) for a, b in links),
    ]


def replaced_while_a_stand_in_keeps_for_it(roles: Roles) -> list[Fault]:
    return [down(roles[0], 100, 60_000), Fault("replace", roles[0], at_us=400 * MS)]


def one_is_behind_and_another_replaced(roles: Roles) -> list[Fault]:
    """The third owner misses writes; of the two that have them one is gone, and one away."""
    behind = down(roles[2], 0, 300, "split")
    return [behind, Fault("replace", roles[0], at_us=290 * MS), down(roles[1], 292, 500, "split")]


def ousted_and_not_told(roles: Roles) -> list[Fault]:
    """The first owner is replaced while it, the third one and a coordinator hear of nobody else."""
    here, there = (roles[0], roles[2], "c2"), (roles[1], "n4", "c1")
    pairs = [pair for a in here for b in there for pair in ((a, b), (b, a))]
    cuts = [Fault("cut", a, at_us=150 * MS + 1, for_us=900 * MS, other=b) for a, b in pairs]
    return [Fault("oust", roles[0], at_us=150 * MS), *cuts]


def ousted_twice(roles: Roles) -> list[Fault]:
    """Two commands replace the first owner, and the second knows nothing of the first."""
    return [Fault("oust", roles[0], at_us=at * MS) for at in (300, 340)]


def ousted_while_a_copy_is_late(roles: Roles) -> list[Fault]:
    """The first owner mints and is replaced; its copies reach the second one after the heir did.

    One coordinator does not reach the third owner, and the other does not reach the second.
    """
    at = ("c1", "Minted", 3)
    away = ("c1", roles[2]), (roles[2], "c1"), ("c2", roles[1]), (roles[1], "c2")
    late = Fault("cut", "c1", for_us=700 * MS, other=roles[1], after=at)
    cuts = [Fault("cut", a, for_us=3000 * MS, other=b, after=at) for a, b in away]
    return [Fault("oust", roles[0], after=at), late, *cuts]


def ousted_while_a_question_is_late(roles: Roles) -> list[Fault]:
    """As above, with reads: the second owner is asked after all count the heir."""
    at = ("c1", "Fetched", 4)
    away = ("c1", roles[2]), (roles[2], "c1"), ("c2", roles[1]), (roles[1], "c2")
    late = Fault("cut", "c1", for_us=900 * MS, other=roles[1], after=("c1", "ClientGet", 3))
    cuts = [Fault("cut", a, for_us=3000 * MS, other=b, after=at) for a, b in away]
    return [Fault("oust", roles[0], after=("c1", "ClientGet", 2)), late, *cuts]


def given_and_inherited(roles: Roles, parted: tuple[str, str, int]) -> list[Fault]:
    """The first owner gives n4 its slot, who alone hears of it, and dies; n5 takes its place.

    From `parted` on both may take themselves for the owner, beside another one and a coordinator.
    """
    giver, second, third = roles[:3]
    alone = [
        pair for a in (giver, "n4") for b in (second, third, "c1", "c2") for pair in both(a, b)
    ]
    sides = [pair for a in ("n4", second, "c2") for b in ("n5", third, "c1") for pair in both(a, b)]
    apart = "n5", "incarnation", 1
    return [
        Fault("join", "n1", at_us=20 * MS),
        Fault("leave", giver, at_us=120 * MS),
        *cuts_of(alone, (giver, "Sealed", 1), 500),
        Fault("replace", giver, after=(giver, "published", 1)),
        *cuts_of(both("n4", "n5"), apart, 100),
        *cuts_of(sides, parted, 1500),
    ]


def inherited_before_all_hear_of_it(roles: Roles) -> list[Fault]:
    """They part when the heir knows that all know whom it replaces, and has not said so yet."""
    return given_and_inherited(roles, ("n5", "Heard", 3))


def inherited_and_given(roles: Roles) -> list[Fault]:
    return given_and_inherited(roles, ("n5", "published", 1))


def both(a: str, b: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (a, b), (b, a)


def cuts_of(
    pairs: Iterable[tuple[str, str]], after: tuple[str, str, int], for_ms: int
) -> list[Fault]:
    return [Fault("cut", a, for_us=for_ms * MS, other=b, after=after) for a, b in pairs]


def removed_and_then_needed(roles: Roles) -> list[Fault]:
    """Who would stand in has just been removed, and not everybody knows."""
    return [Fault("leave", roles[1], at_us=20 * MS), down(roles[0], 360, 4000)]


# ---- how each guard is removed


def no_undo(patch: Patch) -> None:
    def undo(self: Unpersisted, *rest: object) -> list[object]:
        self._queue.clear()
        return []

    patch.setattr(Unpersisted, "undo", undo)


def undo_all(patch: Patch) -> None:
    whole = Unpersisted.undo
    patch.setattr(
        Unpersisted, "undo", lambda self, maps, puts, hints, n: whole(self, maps, puts, hints, 0)
    )


def reads_do_not_wait(patch: Patch) -> None:
    patch.setattr(Unpersisted, "shown_at", lambda self, keys: 0)


def same_incarnation(patch: Patch) -> None:
    patch.setattr(journal.ListJournal, "new_incarnation", lambda self, wall_ms: bytes(14))


def same_life(patch: Patch) -> None:
    def begin(self: lives.Lives, incarnation: bytes) -> None:
        whole(self, incarnation)
        self._last = 0

    def next_dot(self: lives.Lives, key: bytes, held: bytes | None) -> object:
        self._last = 0
        return dotted(self, key, held)

    whole, dotted = lives.Lives.begin, lives.Lives.next_dot
    patch.setattr(Plain, "mint", nothing_is_plain)
    patch.setattr(lives.Lives, "begin", begin)
    patch.setattr(lives.Lives, "next_dot", next_dot)


def blind_replaces_nothing(patch: Patch) -> None:
    def blind(state: bytes | None, dot: object, context: bytes | None, body: object) -> object:
        return whole(state, dot, mint.CONCURRENT if context is None else context, body)

    whole = replica.mint
    patch.setattr(Plain, "mint", nothing_is_plain)
    patch.setattr(replica, "mint", blind)


def context_of_the_state(patch: Patch) -> None:
    def wide(state: bytes | None, dot: object, context: bytes | None, body: object) -> object:
        minted = whole(state, dot, context, body)
        return minted._replace(context=clock_of(minted.state))

    whole = replica.mint
    patch.setattr(replica, "mint", wide)


def last_write_wins(patch: Patch) -> None:
    def newest(a: bytes, b: bytes) -> bytes:
        state = decode(merging.merge(a, b))
        best = max(state.versions, key=lambda version: (version.wall_ms, version.dot))
        return encode(State(state.clock, (best,)))

    for module in (get, made, replica):
        patch.setattr(module, "merge", newest)


def put_ids_forgotten(patch: Patch) -> None:
    patch.setattr(Plain, "mint", nothing_is_plain)
    patch.setattr(replica.Replica, "_minted_before", lambda *rest: None)


def unknown_is_failed(patch: Patch) -> None:
    def certain(self: put.Put, code: Code, received: int, close: bool = False) -> object:
        known = Code.UNAVAILABLE if code == Code.UNKNOWN else code
        return whole(self, known, received, close or code == Code.UNKNOWN)

    whole = put.Put._end
    patch.setattr(put.Put, "_end", certain)


def later_refusal_believed(patch: Patch) -> None:
    patch.setattr(Attempts, "_honest", lambda self, reply: reply)


def silent_counts_for_nothing(patch: Patch) -> None:
    def careless(self: Attempts, silent: object, known: Sequence[object] = ()) -> object:
        before = self._maybe_applied
        effects = whole(self, silent, known)
        self._maybe_applied = before
        return effects

    whole = Attempts.on_silence
    patch.setattr(Attempts, "on_silence", careless)


def answer_at_once(patch: Patch) -> None:
    patch.setattr(node.Node, "_is_due", lambda self, reply: True)


def handoff_not_durable(patch: Patch) -> None:
    def persist(self: replica.Replica, *given: object, durable: bool = False) -> object:
        return whole(self, *given[:4])  # type: ignore[arg-type]

    whole = replica.Replica._persist
    patch.setattr(replica.Replica, "_persist", persist)


def missed_records_forgotten(patch: Patch) -> None:
    patch.setattr(Unlogged, "on_append_failed", lambda self: None)


def nothing_counts(patch: Patch) -> None:
    def on_fetched(self: get.Get, name: bytes, fetched: Fetched) -> object:
        if name not in self._answers:
            self._counted.add(name)
        return whole(self, name, fetched)

    whole = get.Get.on_fetched
    patch.setattr(get.Get, "on_fetched", on_fetched)


def nothing_doubted(patch: Patch) -> None:
    def take_over(self: nodes.StorageNode, found: journal.Recovered, *why: bool) -> None:
        found.doubted = frozenset()
        whole(self, found, *why)

    whole = nodes.StorageNode._take_over
    patch.setattr(nodes.StorageNode, "_take_over", take_over)


def everybody_counts(patch: Patch) -> None:
    def on_fetched(self: get.Get, name: bytes, fetched: Fetched) -> object:
        is_owner = name in self._route.owners
        return whole(self, name, replace(fetched, complete=fetched.complete or is_owner))

    whole = get.Get.on_fetched
    patch.setattr(get.Get, "on_fetched", on_fetched)


def everybody_proves(patch: Patch) -> None:
    def on_page(self: rebuild.Rebuild, name: bytes, asked: Copy, page: Copied) -> object:
        return whole(self, name, asked, replace(page, complete=True))

    whole = rebuild.Rebuild.on_page
    patch.setattr(rebuild.Rebuild, "on_page", on_page)


def fsync_is_tried_again(patch: Patch) -> None:
    def sync(self: journal.StoreJournal) -> None:
        try:
            whole(self)
        except SyncFailedError:
            whole(self)

    whole = journal.StoreJournal.sync
    patch.setattr(Store, "_give_up", lambda self, error: None)
    patch.setattr(journal.StoreJournal, "sync", sync)


def tail_is_believed(patch: Patch) -> None:
    patch.setattr(Log, "rewrite_tail", lambda self: None)


def damage_is_skipped(patch: Patch) -> None:
    def run(self: recovery.Replay) -> None:
        whole(self)
        self.found.quarantined, self.found.suspect = frozenset(), False

    whole = recovery.Replay.run
    patch.setattr(recovery.Replay, "run", run)


def any_checksum_fits(patch: Patch) -> None:
    class Same:
        def update(self, part: bytes) -> None:
            pass

        def hexdigest(self) -> str:
            return ""

    patch.setattr(snapshot, "_checksum", lambda content: Same())


def any_end_is_torn(patch: Patch) -> None:
    def run(self: recovery.Replay) -> None:
        whole(self)
        self.ends_unclear = False

    whole = recovery.Replay.run
    patch.setattr(recovery.Replay, "run", run)


def less_is_enough(patch: Patch) -> None:
    def content(self: recovery.Replay, number: int) -> bytes | None:
        with suppress(StorageError):
            return self._disk.read(segment_path(number))
        return None

    patch.setattr(recovery.Replay, "_content", content)


def hint_beside_the_copy(patch: Patch) -> None:
    whole = replica.Replica.record
    patch.setattr(
        replica.Replica, "record", lambda self, changes: replace(whole(self, changes), hints=())
    )


def edge_triggered(patch: Patch) -> None:
    """Hints go home when an owner is seen to come back, and only then."""

    def on_tick(
        self: node.Node, now_ms: int, wall_ms: int, unreachable: frozenset[bytes]
    ) -> object:
        back = getattr(self, "was_away", frozenset()) - unreachable
        away[id(self)] = unreachable
        others = frozenset(self.replica.hints.owners()) - back
        return whole(self, now_ms, wall_ms, unreachable | others)

    away: dict[int, frozenset[bytes]] = {}
    whole = node.Node.on_tick
    patch.setattr(
        node.Node, "was_away", property(lambda self: away.get(id(self), frozenset())), False
    )
    patch.setattr(node.Node, "on_tick", on_tick)


def expired_shown(patch: Patch) -> None:
    patch.setattr(requests, "hide_expired", lambda state, now_ms: state)


def expired_dropped(patch: Patch) -> None:
    def drop(state: bytes, now_ms: int) -> bytes:
        whole = decode(state)
        kept = tuple(v for v in whole.versions if not is_expired(v, now_ms))
        return encode(State(whole.clock, kept))

    patch.setattr(requests, "hide_expired", drop)


def _holding(always: Callable[[replica.Replica, int], bool]) -> Callable[[Patch], None]:
    """A node that says yes where `always` says so, whatever it holds."""

    def remove(patch: Patch) -> None:
        def holds(self: replica.Replica, key: bytes, partition: int, known: bytes) -> bool:
            return always(self, partition) or whole(self, key, partition, known)

        def confirm(self: replica.Replica, to: object, message: Confirm, limit_ms: int) -> object:
            with pytest.MonkeyPatch.context() as inside:
                inside.setattr(forget, "_holds", holds)
                return confirmed(self, to, message, limit_ms)

        whole, confirmed = forget._holds, forget.confirm
        patch.setattr(serving, "confirm", confirm)

    return remove


owners_not_asked = _holding(lambda self, partition: partition in self.owned)
others_not_asked = _holding(lambda self, partition: partition not in self.owned)


def reaped_whatever_it_is_now(patch: Patch) -> None:
    def reap(self: replica.Replica, to: object, message: Reap) -> object:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(forget, "_holds", lambda self, key, p, known: key in self.maps[p])
            return whole(self, to, message)

    whole = forget.reap
    patch.setattr(serving, "reap", reap)


def the_absent_not_asked(patch: Patch) -> None:
    def on_tick(
        self: reap.Reaper, now_ms: int, wall_ms: int, unreachable: frozenset[bytes]
    ) -> object:
        everybody = self._members
        self._members = [member for member in everybody if member not in unreachable]
        effects = whole(self, now_ms, wall_ms, frozenset())
        self._members = everybody
        return effects

    whole = reap.Reaper.on_tick
    patch.setattr(reap.Reaper, "on_tick", on_tick)


def young_enough(patch: Patch) -> None:
    for module in (reap, forget):
        patch.setattr(module, "may_leave", lambda state, limit_ms: may_leave(state, 1 << 62))


def whatever_it_is_by_now(patch: Patch) -> None:
    class Same(bytes):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = bytes.__hash__

    def tell(self: reap.Reaper, batch: reap.Batch) -> object:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(reap, "digest", lambda state: Same())
            return whole(self, batch)

    whole = reap.Reaper._reap
    patch.setattr(reap.Reaper, "_reap", tell)


def operations_never_end(patch: Patch) -> None:
    patch.setattr(coordinator.Operation, "end", property(lambda self: 1e9, lambda *_: None))


def purged_too_soon(patch: Patch) -> None:
    patch.setattr(
        reap, "hide_expired", lambda state, now_ms: hide_expired(state, now_ms + 1_000_000)
    )


def asked_once(patch: Patch) -> None:
    def agreed(self: reap.Reaper) -> reap.Batch:
        self._asked.is_confirmed = True
        return whole(self)

    whole = reap.Reaper._agreed
    patch.setattr(reap.Reaper, "_agreed", agreed)


def confirmed_before_the_fsync(patch: Patch) -> None:
    def confirm(self: replica.Replica, to: object, message: Confirm, limit_ms: int) -> object:
        (reply,) = whole(self, to, message, limit_ms)
        return [replace(reply, durable=False)]

    whole = forget.confirm
    patch.setattr(serving, "confirm", confirm)


def whatever_differs_is_left(patch: Patch) -> None:
    def on_compared(self: sync.Sync, current: Comparison, reply: Compared) -> bool:
        current.is_compared = True
        return True

    patch.setattr(sync.Sync, "_on_compared", on_compared)


def only_keys_are_hashed(patch: Patch) -> None:
    for module in (merkle, sync, compare):
        patch.setattr(module, "digest", lambda state: bytes(16))


def nothing_is_marked(patch: Patch) -> None:
    patch.setattr(forest.Forest, "mark", lambda *rest: None)


def nobody_was_ever_away(patch: Patch) -> None:
    def on_tick(self: rounds.Rounds, now_ms: int, unreachable: frozenset[bytes]) -> None:
        whole(self, now_ms, unreachable)
        for other in self._others.values():
            other.away_ms = 0

    whole = rounds.Rounds.on_tick
    patch.setattr(rounds.Rounds, "on_tick", on_tick)


def what_came_is_kept_for_later(patch: Patch) -> None:
    """A machine that keeps states from one message to the next, and merges them some day."""

    def take_in(
        self: sync.Sync, current: Comparison, question: Fetch, reply: Fetched
    ) -> Sequence[object]:
        kept.setdefault(id(self), []).append((self._now_ms, question, reply.states))
        return whole_take_in(self, current, question, reply)

    def on_tick(self: sync.Sync, now_ms: int) -> list[object]:
        effects: list[object] = list(whole_on_tick(self, now_ms))
        for at_ms, question, states in kept.get(id(self), []):
            if at_ms + 1_500 <= now_ms and question.keys[0] not in self._replica.maps[0]:
                late = Merge(question.keys[:1], question.partitions[:1], states[:1])
                effects.append(Send(self._replica.node, late))
        return effects

    kept: dict[int, list[tuple[int, Fetch, Sequence[bytes]]]] = {}
    whole_take_in, whole_on_tick = sync.Sync._take_in, sync.Sync.on_tick
    patch.setattr(sync.Sync, "_take_in", take_in)
    patch.setattr(sync.Sync, "on_tick", on_tick)


def anybody_may(patch: Patch) -> None:
    patch.setattr(node, "judge", lambda *asked: None)


def published_at_once(patch: Patch) -> None:
    """As if the receiver had said that it has all, when it said that it will take it."""

    def on_peer(self: handover.Handover, request: object, reply: object, now_ms: int) -> object:
        if isinstance(request, Offer) and isinstance(reply, Offered):
            sealed = Seal(request.partition, request.slot, request.generation, reply.token)
            return whole(self, sealed, Sealed(), now_ms)
        return whole(self, request, reply, now_ms)

    whole = handover.Handover.on_peer
    patch.setattr(handover.Handover, "on_peer", on_peer)


def never_compared_again(patch: Patch) -> None:
    def begin(self: handover.Handover, current: handover.Moving, step: handover.Step) -> None:
        is_last = step is handover.Step.FINISHING
        whole(self, current, handover.Step.SEALING if is_last else step)

    whole = handover.Handover._begin
    patch.setattr(handover.Handover, "_begin", begin)


def never_closed(patch: Patch) -> None:
    patch.setattr(handover.Handover, "_reckon_closed", lambda self: None)


def sealed_before_the_fsync(patch: Patch) -> None:
    def granted(self: receive.Receiver, grant: receive.Grant, is_durable: bool) -> object:
        self._replica.doubted -= {grant.partition}
        return [Reply(grant.to, Sealed())]

    patch.setattr(receive.Receiver, "on_granted", granted)


def nobody_asks_who_has_it(patch: Patch) -> None:
    def let_go(
        self: receive.Receiver, partition: int, key: bytes, state: bytes, changes: Changes
    ) -> None:
        changes.add(partition, key, state, None, b"")
        del self._replica.maps[partition][key]

    patch.setattr(receive.Receiver, "_keep_for_owners", let_go)


def whatever_is_not_owned_goes(patch: Patch) -> None:
    def on_tick(self: receive.Receiver, now_ms: int) -> object:
        owned = self._replica.owned
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(receive.Receiver, "_may_let_go", lambda self, p: p not in owned)
            return whole(self, now_ms)

    whole = receive.Receiver.on_tick
    patch.setattr(receive.Receiver, "on_tick", on_tick)
    nobody_asks_who_has_it(patch)  # or the owners would get it first


def promises_forgotten(patch: Patch) -> None:
    def made(
        of: replica.Replica, settings: Settings, placement: Placement, granted: object
    ) -> node.Node:
        return node.Node(of, settings, placement, {})

    patch.setattr(nodes, "Node", made)
    nobody_asks_who_has_it(patch)  # or the owners would get what was promised


def given_and_forgotten(patch: Patch) -> None:
    def published(self: nodes.StorageNode, effect: handover.Publish) -> None:
        before = self._durable_view
        whole(self, effect)
        self._durable_view = before

    whole = nodes.StorageNode._published
    patch.setattr(nodes.StorageNode, "_published", published)


def the_removed_serve(patch: Patch) -> None:
    def on_placement(self: node.Node, placement: Placement) -> None:
        whole(self, placement)
        self._is_over = False

    whole = node.Node.on_placement
    patch.setattr(node.Node, "on_placement", on_placement)


def heirs_are_open(patch: Patch) -> None:
    patch.setattr(Placement, "inherited", lambda self, node: {})


def heirs_follow_the_line_before(patch: Patch) -> None:
    patch.setattr(slots, "LINE", 1)


def heirs_are_open_once_they_said_so(patch: Patch) -> None:
    def on_placement(self: inheriting.Inheriting, at: Placement, doubted: frozenset[int]) -> None:
        whole(self, at, doubted)
        for slot, owned in list(self.slots.items()):
            if self._is_published(slot, owned):
                del self.slots[slot]

    whole = inheriting.Inheriting.on_placement
    patch.setattr(inheriting.Inheriting, "on_placement", on_placement)


def copies_of_the_gone_count(patch: Patch) -> None:
    patch.setattr(put.Put, "on_gone", lambda self, nodes: [])


def answers_of_the_gone_count(patch: Patch) -> None:
    patch.setattr(get.Get, "on_gone", lambda self, nodes: [])


def hints_for_who_is_gone(patch: Patch) -> None:
    patch.setattr(hints.Hints, "on_ring", lambda *rest: None)


def newcomers_count(patch: Patch) -> None:
    def on_placement(self: handover.Handover, placement: Placement) -> None:
        doubted = self._replica.doubted
        whole(self, placement)
        self._replica.doubted = doubted

    whole = handover.Handover.on_placement
    patch.setattr(handover.Handover, "on_placement", on_placement)
    patch.setattr(journal.ListJournal, "join", lambda self: None)
    everything = property(lambda self: frozenset(range(1000)))
    patch.setattr(receive.Receiver, "promised", everything)


SYNCED = replace(ONE_COPY, durability="synced", sync_us=20 * MS)
MIXED = replace(THREE, context_share=0.5, repeats=2)
STRICT = replace(THREE, strict_share=1.0, r=2, w=2)

REAPING = replace(
    THREE,
    clients=2,
    think_us=500 * MS,
    timeout_ms=300,
    timeout_max_s=0.3,
    linger_s=0.1,
    grace_s=0.05,
    delete_share=0.6,
    context_share=0.2,
)
# The hot key goes on living, and its clock forgets.
PRUNING = replace(REAPING, delete_share=0.0)
# Many keys, each at rest for a while and then touched, and every message takes its time.
BUSY = replace(
    REAPING,
    keys=6,
    styles=("mixed",) * 6,
    clients=4,
    operations=30,
    think_us=150 * MS,
    ttl_share=0.5,
    weather=Weather(delay_us=30 * MS),
)
SLOW = Weather(slow_share=0.2, slow_us=290 * MS, notice_us=1 * MS)
REAL = replace(STRICT, real_storage=True)
REAL_SYNCED = replace(REAL, durability="synced", sync_us=20 * MS, partitions=1, delete_share=0.0)

# Nobody stands in, and the third owner misses the last writes: only a comparison can tell.
COMPARING = replace(HOT, n=3, w=2, repair_s=0.2)

# One slot goes from a node to another; one owner of three is replaced.
MOVING = replace(
    ONE_COPY, nodes=1, newcomers=1, partitions=1, strict_share=1.0, operations=40, repeats=2
)
BUSILY = replace(
    MOVING, clients=4, think_us=10 * MS, operations=30, weather=Weather(delay_us=10 * MS)
)
REPLACING = replace(STRICT, nodes=3, newcomers=1, partitions=1, operations=20, sync_s=5.0)
OUSTING = replace(REPLACING, operations=25, timeout_ms=300, sync_s=1.0)
OUSTED_TWICE = replace(ONE_COPY, nodes=4, newcomers=2, partitions=1, operations=25)
OUSTING_LATE = replace(OUSTING, timeout_ms=1500, suspect_s=1.5, weather=Weather(kept_by_cut=1.0))
GIVEN_TWICE = replace(
    OUSTING, nodes=3, newcomers=2, operations=60, timeout_ms=1000, think_us=30 * MS
)
LEAVING = replace(ONE_COPY, nodes=2, newcomers=1, partitions=1, operations=80)

GUARDS = (
    Guard(
        "1",
        "a failed append is undone",
        no_undo,
        ONE_COPY,
        full_disks,
        ("no_breach", "nothing_invented"),
    ),
    Guard(
        "1",
        "but not what the log has",
        undo_all,
        SYNCED,
        full_between_append_and_sync,
        ("no_breach", "nothing_lost"),
    ),
    Guard(
        "1",
        "reads wait for what they show",
        reads_do_not_wait,
        replace(THREE, append_us=30 * MS),
        nothing,
        ("no_breach",),
    ),
    Guard(
        "2",
        "a start is a new incarnation",
        same_incarnation,
        LONGER,
        everybody_restarts,
        ("unique_dots", "nothing_lost"),
    ),
    Guard(
        "3",
        "a mint of nothing is a new life",
        same_life,
        LONGER,
        owner_comes_and_goes,
        ("unique_dots", "nothing_lost"),
    ),
    Guard(
        "4",
        "a blind put replaces what is held",
        blind_replaces_nothing,
        THREE,
        nothing,
        ("no_breach",),
    ),
    Guard(
        "5",
        "a context covers what was seen",
        context_of_the_state,
        MIXED,
        nothing,
        ("contexts_sound",),
    ),
    Guard(
        "6",
        "merge keeps concurrent versions",
        last_write_wins,
        MIXED,
        slow_owner,
        ("siblings_sound",),
    ),
    Guard(
        "7",
        "a put id makes a retry harmless",
        put_ids_forgotten,
        replace(MIXED, w=3),
        coordinators_die,
        ("no_breach",),
    ),
    Guard(
        "7",
        "a put that may be applied is unknown",
        unknown_is_failed,
        LONE,
        crash_after_mints,
        ("nothing_invented",),
    ),
    Guard(
        "7",
        "an earlier attempt is not forgotten",
        later_refusal_believed,
        LONE,
        both_die,
        ("nothing_invented",),
    ),
    Guard(
        "7",
        "what a silent coordinator was asked counts",
        silent_counts_for_nothing,
        LONE,
        one_hangs_one_dies,
        ("nothing_invented",),
    ),
    Guard(
        "8",
        "persisted before acknowledged",
        answer_at_once,
        ONE_COPY,
        crash_after_mints,
        ("no_breach", "nothing_lost"),
    ),
    Guard(
        "8",
        "handed home means fsynced",
        handoff_not_durable,
        ONE_COPY,
        power_after_handoff,
        ("no_breach", "nothing_lost"),
    ),
    Guard(
        "8",
        "also where answers do not wait for the log",
        missed_records_forgotten,
        replace(ONE_COPY, durability="memory"),
        full_when_it_comes_home,
        ("no_breach",),
    ),
    Guard(
        "9",
        "a stand-in's nothing never counts",
        nothing_counts,
        replace(STRICT, nodes=6, strict_share=0.5, weather=LOSSY),
        the_two_that_knew,
        ("reads_see_writes",),
    ),
    Guard(
        "9",
        "a lost tail is doubted",
        nothing_doubted,
        replace(STRICT, operations=20, sync_s=5.0),
        power_at_one_of_two_that_knew,
        ("reads_see_writes",),
    ),
    Guard(
        "9",
        "an owner in doubt does not count",
        everybody_counts,
        replace(STRICT, operations=20, sync_s=5.0),
        power_at_one_of_two_that_knew,
        ("reads_see_writes",),
    ),
    Guard(
        "9",
        "nor does it prove another",
        everybody_proves,
        replace(STRICT, nodes=3, r=1, w=3, operations=20, sync_s=5.0),
        both_that_knew_lose_power,
        ("reads_see_writes",),
    ),
    Guard(
        "9",
        "a failed fsync is the end",
        fsync_is_tried_again,
        REAL_SYNCED,
        failed_fsync_then_power,
        ("no_breach",),
    ),
    Guard(
        "9",
        "and what it dropped is written anew",
        tail_is_believed,
        REAL_SYNCED,
        failed_fsync_then_power_at_the_next_start,
        ("no_breach",),
        seed=8,
    ),
    Guard(
        "9",
        "a newcomer's copies do not count at once",
        newcomers_count,
        REPLACING,
        one_is_behind_and_another_replaced,
        ("reads_see_writes",),
        seed=3,
    ),
    Guard(
        "10",
        "copy and hint are one record",
        hint_beside_the_copy,
        ONE_COPY,
        owner_comes_and_goes,
        ("no_breach", "copies_equal"),
    ),
    Guard(
        "10",
        "a hint is due to whoever owns the key now",
        hints_for_who_is_gone,
        replace(THREE, newcomers=1, operations=25),
        replaced_while_a_stand_in_keeps_for_it,
        ("copies_equal",),
    ),
    Guard(
        "11",
        "hints are asked for at each tick",
        edge_triggered,
        ONE_COPY,
        full_when_it_comes_home,
        ("copies_equal",),
    ),
    Guard(
        "11",
        "a copy that nobody reads converges",
        whatever_differs_is_left,
        COMPARING,
        third_owner_misses_the_end,
        ("copies_equal",),
    ),
    Guard(
        "11",
        "digests are of states, not of keys",
        only_keys_are_hashed,
        COMPARING,
        third_owner_misses_the_end,
        ("copies_equal",),
    ),
    Guard(
        "11",
        "a change marks its bucket",
        nothing_is_marked,
        replace(COMPARING, think_us=400 * MS),
        third_owner_hangs_at_the_end,
        ("copies_equal",),
    ),
    Guard(
        "11",
        "who was away is compared with",
        nobody_was_ever_away,
        replace(COMPARING, think_us=400 * MS, repair_s=50.0),
        third_owner_hangs_at_the_end,
        ("copies_equal",),
    ),
    Guard(
        "12",
        "all owners hold exactly it",
        owners_not_asked,
        replace(REAPING, strict_share=1.0),
        one_is_out_of_reach,
        ("no_breach", "nothing_revived"),
    ),
    Guard(
        "12",
        "nobody else holds the key",
        others_not_asked,
        REAPING,
        missed_by_one,
        ("no_breach", "nothing_revived"),
        seed=20,
    ),
    Guard(
        "12",
        "nothing is reaped while one is away",
        the_absent_not_asked,
        REAPING,
        stand_in_goes_too,
        ("no_breach", "nothing_revived"),
        seed=20,
    ),
    Guard(
        "12",
        "a reap is conditional",
        reaped_whatever_it_is_now,
        replace(BUSY, partitions=1, weather=Weather(kept_by_cut=1.0)),
        told_late,
        ("no_breach", "nothing_lost"),
    ),
    Guard(
        "12",
        "nothing older is under way",
        asked_once,
        replace(REAPING, weather=SLOW),
        nothing,
        ("no_breach", "nothing_revived", "copies_equal"),
        seed=44,
    ),
    Guard(
        "12",
        "nothing younger than the grace",
        young_enough,
        replace(REAPING, grace_s=30.0, ttl_share=0.5),
        nothing,
        ("no_breach",),
    ),
    Guard(
        "12",
        "what was asked about, and nothing newer",
        whatever_it_is_by_now,
        BUSY,
        nothing,
        ("no_breach",),
        seed=9,
    ),
    Guard(
        "12",
        "an operation has an end",
        operations_never_end,
        replace(REAPING, operations=12),
        coordinators_stop,
        ("nothing_revived", "no_breach"),
        seed=162,
    ),
    Guard(
        "12",
        "what is confirmed is fsynced",
        confirmed_before_the_fsync,
        replace(REAPING, sync_s=9.0, think_us=1200 * MS, operations=5),
        power_after_confirming,
        ("no_breach", "nothing_revived"),
    ),
    Guard(
        "12",
        "what is compared is not kept for later",
        what_came_is_kept_for_later,
        replace(REAPING, nodes=3, partitions=1, repair_s=0.2),
        third_owner_is_often_away,
        ("nothing_revived",),
    ),
    Guard(
        "13",
        "an expired value is hidden",
        expired_shown,
        replace(THREE, ttl_share=0.9),
        nothing,
        ("expired_hidden",),
    ),
    Guard(
        "13",
        "an expired version stays a version",
        expired_dropped,
        replace(THREE, ttl_share=0.9),
        nothing,
        ("siblings_sound",),
    ),
    Guard(
        "13",
        "its bytes stay for a while",
        purged_too_soon,
        replace(THREE, ttl_share=0.9, purge_s=0.05),
        nothing,
        ("expired_hidden", "no_breach"),
    ),
    Guard(
        "14",
        "a clock forgets only what nobody holds",
        owners_not_asked,
        replace(PRUNING, strict_share=1.0),
        many_wrote_and_one_is_out_of_reach,
        ("no_breach", "nothing_revived"),
    ),
    Guard(
        "15",
        "what is given away is durable before it is told",
        given_and_forgotten,
        replace(MOVING, weather=Weather(kept_by_cut=1.0)),
        giver_loses_power,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
    ),
    Guard(
        "15",
        "who was removed keeps nothing more for others",
        the_removed_serve,
        LEAVING,
        removed_and_then_needed,
        ("nothing_lost",),
    ),
    Guard(
        "15",
        "and what it had stays aside",
        whatever_is_not_owned_goes,
        OUSTING,
        ousted_and_not_told,
        ("no_breach",),
    ),
    Guard(
        "16",
        "who has given it away refuses",
        anybody_may,
        MOVING,
        it_hands_over_and_goes,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
    ),
    Guard(
        "17",
        "nothing is published before it is sealed",
        published_at_once,
        MOVING,
        it_hands_over_and_goes,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
    ),
    Guard(
        "17",
        "who gives takes no writes at the end",
        never_closed,
        MOVING,
        it_hands_over_and_goes,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
    ),
    Guard(
        "17",
        "and compares for the last time after that",
        never_compared_again,
        BUSILY,
        it_hands_over_and_goes,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
    ),
    Guard(
        "17",
        "sealed means fsynced",
        sealed_before_the_fsync,
        replace(MOVING, sync_s=9.0),
        receiver_loses_power,
        (
            "nothing_lost",
            "no_breach",
        ),
    ),
    Guard(
        "17",
        "what is to come is not let go of",
        whatever_is_not_owned_goes,
        BUSILY,
        it_hands_over_and_goes,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
        seed=2,
    ),
    Guard(
        "17",
        "a promise outlives its process",
        promises_forgotten,
        replace(MOVING, sync_us=200 * MS),
        receiver_hears_of_nobody,
        (
            "reads_see_writes",
            "nothing_lost",
        ),
        seed=1,
    ),
    Guard(
        "17",
        "an heir takes no writes before the others know",
        heirs_are_open,
        OUSTING,
        ousted_and_not_told,
        ("reads_see_writes",),
    ),
    Guard(
        "17",
        "an heir begins a line above the one before",
        heirs_follow_the_line_before,
        GIVEN_TWICE,
        inherited_and_given,
        ("reads_see_writes",),
    ),
    Guard(
        "17",
        "an heir counts once all know what it said",
        heirs_are_open_once_they_said_so,
        GIVEN_TWICE,
        inherited_before_all_hear_of_it,
        ("reads_see_writes",),
    ),
    Guard(
        "17",
        "a copy at one that was replaced is none",
        copies_of_the_gone_count,
        OUSTING_LATE,
        ousted_while_a_copy_is_late,
        ("reads_see_writes",),
        seed=6,
    ),
    Guard(
        "17",
        "nor is its answer one",
        answers_of_the_gone_count,
        OUSTING_LATE,
        ousted_while_a_question_is_late,
        ("reads_see_writes",),
        seed=2,
    ),
    Guard(
        "17",
        "what was not given goes to the owners first",
        nobody_asks_who_has_it,
        OUSTED_TWICE,
        ousted_twice,
        ("no_breach", "nothing_lost"),
    ),
    Guard(
        "20",
        "a damaged frame is doubted",
        damage_is_skipped,
        REAL,
        flips_under_a_stopped_node,
        ("no_breach",),
    ),
    Guard(
        "20",
        "a snapshot has a checksum",
        any_checksum_fits,
        replace(REAL, keys=4, styles=("mixed",) * 4, operations=20),
        flips_after_a_snapshot,
        ("no_breach",),
    ),
    Guard(
        "20",
        "a damaged end is not a torn one",
        any_end_is_torn,
        REAL_SYNCED,
        power_and_a_flip,
        ("no_breach",),
        seed=13,
    ),
    Guard(
        "20",
        "nor is one that is not read whole",
        less_is_enough,
        REAL,
        unreadable_at_a_start,
        ("no_breach",),
        seed=11,
    ),
)


def found_by(guard: Guard, seed: int) -> set[str]:
    """The checkers that complain about one run of the guard's world and tape."""
    run = Run(seed, guard.plan, ())
    run.tape = tuple(guard.tape(run.cluster.order(run.keys[0])))
    run.begin()
    with suppress(MalformedStateError):  # what is read without a checksum need not be a state
        run.work()
        run.calm()
    return {verdict.checker for verdict in run.result().verdicts if not verdict.ok}


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_without_its_guard_the_tape_fails_and_with_it_it_passes(guard: Guard) -> None:
    began = time.process_time()
    found: set[str] = set()
    seed = guard.seed - 1
    with pytest.MonkeyPatch.context() as patch:
        guard.remove(patch)
        while not found and seed + 1 < guard.seed + SEEDS and time.process_time() - began < SECONDS:
            seed += 1
            found = found_by(guard, seed).intersection(guard.caught_by)
    took_s = time.process_time() - began
    print(f"{guard} → {', '.join(sorted(found))} at seed {seed} after {took_s:.2f} s")
    assert found, f"{guard}: {seed + 1 - guard.seed} seeds passed without the guard"
    assert found_by(guard, seed) == set()


def test_every_checker_of_a_rule_is_used() -> None:
    assert {guard.rule for guard in GUARDS} >= {
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "10",
        "11",
        "12",
        "13",
        "14",
        "15",
        "16",
        "17",
        "20",
    }


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_random_hunt_finds_most_of_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    """How many drawn seeds it takes, guard by guard: the table that says what the hunt is worth."""
    needed = {str(guard): seeds_needed(guard, 400) for guard in GUARDS}
    with capsys.disabled():
        for name, seeds in needed.items():
            print(f"{name:60} {seeds or 'more than 400'}")
    assert sum(seeds > 0 for seeds in needed.values()) > len(GUARDS) / 2


def seeds_needed(guard: Guard, most: int) -> int:
    """How many seeds of the hunt it takes to notice that a guard is gone; 0 if they do not."""
    with pytest.MonkeyPatch.context() as patch:
        guard.remove(patch)
        found = (not run_seed(seed, ladder=False).ok for seed in range(most))
        return next((at + 1 for at, is_found in enumerate(found) if is_found), 0)
