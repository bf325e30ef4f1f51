"""Who lets go of dead keys and of clock entries, and when: a conditional exchange (DESIGN §5).

    tick ─► look at a few keys ─► expired for an hour? purge
                └ dead, or a clock with writers of no version, for longer than the grace
                      └► Confirm to every member ─ all hold exactly it, nobody else holds any ─►
                           wait until no older message can be under way
                             └► Confirm to every member ─ still so ─► Reap to the owners

The first owner of a partition does it. A tombstone may go only when no older copy can come back
(rule 12): all owners hold exactly it, fsynced; no other member holds the key for anybody; nobody is
left out, so while one member is away nothing is reaped. Asking twice, the life of a message apart,
means that what was sent before the first answers cannot arrive after the last: so what is safe
hangs on no wall clock. Each owner forgets only what is unchanged since. A reap that reaches only
some owners does no harm: the others give the tombstone back, and it is reaped later.

Clock entries of writers without a version leave by the same exchange (rule 14). The writer may be
alive: a node that finds nothing of its own in a key's clock begins a new life (rule 3), so no dot
is numbered again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dynamo_ray.core.forget import purge
from dynamo_ray.core.messages import Effect, Send
from dynamo_ray.core.remains import dead_since_ms, idle_writers, is_alive, may_leave
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.ring import Ring
from dynamo_ray.core.settings import Settings
from dynamo_ray.core.upkeep import Confirm, Confirmed, Reap
from dynamo_ray.core.version import decode, digest, hide_expired

KEYS_A_SLICE = 50
KEYS_A_BATCH = 200
KEYS_A_TICK = range(100, 501)  # so many at least, and at most
ROUNDS = 10  # so often it looks at everything while what is dead grows old enough
EFFORT_A_TICK = 1024 * 1024  # bytes to decode and to hash: some milliseconds
EFFORT_A_KEY = 2000  # of decoding any state
BATCHES = 64


@dataclass(slots=True)
class Batch:
    """Keys of one partition on their way out, and when they may be asked about.

    `due_ms` None: as long after the next tick as a message may live.
    """

    partition: int
    keys: list[bytes]
    digests: list[bytes]
    due_ms: int | None = 0
    is_confirmed: bool = False


class Reaper:
    """The machine of one storage node that lets go of what nobody needs any more."""

    def __init__(self, replica: Replica, ring: Ring, settings: Settings) -> None:
        times = settings.times
        self._replica = replica
        self._ring = ring
        self._members = [member.node for member in ring.members]
        self._purge_ms = int(times.purge_s * 1000)
        self._grace_ms = int(times.grace_s * 1000)
        self._message_ms = int(times.message_s * 1000)
        self._ticks_a_round = min(times.purge_s, times.grace_s) / ROUNDS / times.tick_s
        self._keys_a_tick = KEYS_A_TICK[0]
        self._slices = self._walk()
        self._rest: tuple[int, list[bytes]] | None = None
        self._found = Batch(0, [], [])
        self._on_their_way: set[bytes] = set()
        self._leaving: list[Batch] = []
        self._question: Confirm | None = None
        self._asked = Batch(0, [], [])
        self._same: list[bool] = []
        self._unheard: set[bytes] = set()
        self._reaping: set[bytes] = set()

    def on_ring(self, ring: Ring) -> None:
        """Others are to be asked from now on: what was asked before counts for nothing."""
        self._ring = ring
        self._members = [member.node for member in ring.members]
        self._leaving.clear()
        self._on_their_way.clear()
        self._question = None
        self._reaping.clear()

    @property
    def is_busy(self) -> bool:
        """True while owners are told to let go."""
        return bool(self._reaping)

    def on_tick(self, now_ms: int, wall_ms: int, unreachable: frozenset[bytes]) -> list[Effect]:
        """Look at a few keys, go on with one batch. `now_ms` only rises, `wall_ms` is people's."""
        effects = self._look(wall_ms)
        for batch in self._leaving:
            if batch.due_ms is None:
                batch.due_ms = now_ms + self._message_ms
        if not unreachable.isdisjoint(self._members):
            self._leaving.clear()
            self._on_their_way.clear()
            self._question = None
        elif self._question is None and not self._reaping:
            effects += self._ask(now_ms)
        return effects

    def on_confirmed(self, node: bytes, question: Confirm, answer: Confirmed) -> list[Effect]:
        """A member said what it holds."""
        if question is not self._question:
            return []
        if len(answer.same) != len(self._same):
            self.on_refused(question)
            return []
        self._unheard.discard(node)
        self._same = [a and b for a, b in zip(self._same, answer.same, strict=True)]
        if self._unheard:
            return []
        self._question = None
        agreed = self._agreed()
        self._forget(self._asked)
        if self._asked.is_confirmed:
            return self._reap(agreed)
        if agreed.keys:
            self._leaving.append(agreed)
            self._on_their_way.update(agreed.keys)
        return []

    def on_refused(self, question: Confirm) -> None:
        """A member did not say: nothing is known of these keys for now."""
        if question is self._question:
            self._question = None
            self._forget(self._asked)

    def on_reaped(self, node: bytes) -> None:
        """An owner has let go, or did not answer; what it kept it will give back."""
        self._reaping.discard(node)

    # ---- looking

    def _walk(self) -> Iterator[tuple[int, list[bytes]]]:
        """All keys, slice by slice, and an empty slice after each round."""
        while True:
            count = sum(map(len, self._replica.maps))
            due = int(count / self._ticks_a_round)
            self._keys_a_tick = min(max(KEYS_A_TICK[0], due), KEYS_A_TICK[-1])
            for partition, of in enumerate(self._replica.maps):
                keys = list(of)
                for at in range(0, len(keys), KEYS_A_SLICE):
                    yield partition, keys[at : at + KEYS_A_SLICE]
            yield 0, []

    def _look(self, wall_ms: int) -> list[Effect]:
        """Purge what is due; remember what may leave, if this node is the one to ask."""
        effects: list[Effect] = []
        looked = effort = 0
        while looked < self._keys_a_tick and effort < EFFORT_A_TICK:
            partition, keys = self._rest or next(self._slices)
            if partition != self._found.partition or not keys:
                self._leave(partition)
            if not keys:
                break
            done, effort = self._look_at(partition, keys, wall_ms, effort, effects)
            looked += done
            self._rest = (partition, keys[done:]) if done < len(keys) else None
        return effects

    def _look_at(
        self, partition: int, keys: list[bytes], wall_ms: int, effort: int, effects: list[Effect]
    ) -> tuple[int, int]:
        """Look at keys of a slice, one at least: at how many, and the effort with theirs."""
        of = self._replica.maps[partition]
        leads = self._ring.owners(partition)[0] == self._replica.node
        purged: dict[bytes, bytes] = {}
        done = 0
        for key in keys:
            if effort >= EFFORT_A_TICK:
                break
            done += 1
            state = of.get(key)
            if state is None or is_alive(state):
                continue
            effort += EFFORT_A_KEY + len(state)
            less = hide_expired(state, wall_ms - self._purge_ms)
            if less != state:
                purged[key] = less
            elif leads and key not in self._on_their_way:
                if may_leave(decode(state), wall_ms - self._grace_ms):
                    self._found.keys.append(key)
                    self._found.digests.append(digest(state))
        if purged:
            effects += purge(self._replica, partition, purged)
        if len(self._found.keys) >= KEYS_A_BATCH:
            self._leave(partition)
        return done, effort

    def _leave(self, following: int) -> None:
        """What was found of a partition is a batch; the next one is of partition `following`."""
        if self._found.keys and len(self._leaving) < BATCHES:
            self._leaving.append(self._found)
            self._on_their_way.update(self._found.keys)
        self._found = Batch(following, [], [])

    def _forget(self, batch: Batch) -> None:
        """The batch is on its way no more: its keys may be found again."""
        self._on_their_way.difference_update(batch.keys)

    # ---- asking

    def _ask(self, now_ms: int) -> list[Effect]:
        """Ask every member about the first batch that is due."""
        due = [i for i, one in enumerate(self._leaving) if (one.due_ms or 0) <= now_ms]
        if not due:
            return []
        batch = self._leaving.pop(due[0])
        partitions = [batch.partition] * len(batch.keys)
        self._asked, self._same = batch, [True] * len(batch.keys)
        self._question = Confirm(batch.keys, partitions, batch.digests)
        self._unheard = set(self._members)
        return [Send(node, self._question) for node in self._members]

    def _agreed(self) -> Batch:
        """What all members said yes to, to be asked about again when old messages are gone."""
        rows = zip(self._asked.keys, self._asked.digests, self._same, strict=True)
        kept = [(key, known) for key, known, is_same in rows if is_same]
        keys, digests = [key for key, _ in kept], [known for _, known in kept]
        return Batch(self._asked.partition, keys, digests, None, True)

    def _reap(self, batch: Batch) -> list[Effect]:
        """Tell the owners to let go of what was so twice, and is so still."""
        of = self._replica.maps[batch.partition]
        told = Batch(batch.partition, [], [])
        writers: list[bytes | None] = []
        for key, known in zip(batch.keys, batch.digests, strict=True):
            # What to let go of is read from the state that was asked about, and from no newer one.
            if key in of and digest(of[key]) == known:
                held = decode(of[key])
                told.keys.append(key)
                told.digests.append(known)
                writers.append(None if dead_since_ms(held) else b"".join(idle_writers(held)))
        if not told.keys:
            return []
        owners = self._ring.owners(batch.partition)
        self._reaping = set(owners)
        message = Reap(told.keys, [batch.partition] * len(told.keys), told.digests, writers)
        return [Send(owner, message) for owner in owners]
