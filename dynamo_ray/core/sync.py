"""Anti-entropy: two owners compare what they hold of a partition, and exchange what differs (§4.7).

    Compare ─► same root? done          Enumerate ─► keys with digests, a page at a time
       └► Descend ─► buckets ──────────────┘  └► per page: Fetch what they have ─► merge it here
                                                           Merge what they lack ─► next page

A copy that missed a write, got no hint for it and is never read is found so, and only so. Whole
states are exchanged and merged on both sides (DESIGN rule 6), so it does not matter who is newer.
No state is kept from one message to the next: what is sent is what is held at that moment. So no
message brings back what was reaped that is older than a message may be (core/reap.py counts on
that); a reap that reached only some owners is undone here, and done again later.

One comparison at a time, one message of it in flight; pages are bounded in keys and bytes (rule
19), and all of it has an allowance of bytes and time (rule 21, core/pace.py). Whatever fails is
tried again when it is due (rule 11, core/rounds.py). An owner that cannot prove that it holds all
it acknowledged (rule 9) takes part, and is compared with again until it can; becoming sure is the
business of core/rebuild.py.

The same work gives a partition to a node that is to own it (core/handover.py): then the other side
cannot be complete, and need not be.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dynamo_ray.core.comparison import Comparison, Turns
from dynamo_ray.core.merkle import BUCKETS_A_BRANCH, WIDTH, differing, root_of
from dynamo_ray.core.messages import Code, Effect, Fetch, Fetched, Merge, Merged, Refused, Send
from dynamo_ray.core.pace import NEVER, Allowance
from dynamo_ray.core.replica import Replica
from dynamo_ray.core.upkeep import Compare, Compared, Descend, Descended, Enumerate, Enumerated
from dynamo_ray.core.version import HASH_BYTES, digest

PAGE_KEYS = 100  # some milliseconds of merging
PAGE_BYTES = 128 * 1024


class Sync:
    """The machine of one node's comparisons with other nodes, of which `turns` says the order.

    While somebody waits for its turns they take the time that they need. A copy that is not
    complete is compared with in vain, unless it `may_lack`.
    """

    def __init__(
        self,
        replica: Replica,
        turns: Turns,
        allowance: Allowance,
        page_bytes: int = PAGE_BYTES,
        may_lack: bool = False,
    ) -> None:
        self._turns = turns
        self._may_lack = may_lack
        self._replica = replica
        self._allowance = allowance
        self._page_bytes = min(PAGE_BYTES, page_bytes)
        self._current: Comparison | None = None
        self._question: Any = None
        self._now_ms = self._asked_ms = NEVER
        self._comparisons = self._received = self._sent = self._bytes = 0

    @property
    def keys_sent(self) -> int:
        """How many keys' states were sent to others so far."""
        return self._sent

    @property
    def bytes_moved(self) -> int:
        """How many bytes all comparisons took so far."""
        return self._bytes

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Ask what should be true now; `now_ms` only rises."""
        self._allowance.on_tick(now_ms)
        return self.go_on(now_ms)

    def stop(self) -> None:
        """Leave the comparison that is under way; what is asked now is answered to nobody."""
        self._current = self._question = None

    def has_asked(self, request: Any) -> bool:
        """True if this is the question whose end is waited for."""
        return self._question is not None and request is self._question

    def on_end(self, reply: Any, now_ms: int = NEVER) -> list[Effect]:
        """The question has come to its end: an answer, a refusal, or None for neither."""
        question, self._question = self._question, None
        self._now_ms = max(self._now_ms, now_ms)
        self._allowance.spend(0, self._now_ms - self._asked_ms)
        current = self._current
        if current is None or _is_for_later(question, reply):
            return []
        if isinstance(question, Fetch) and isinstance(reply, Fetched):
            return self._take_in(current, question, reply)
        if not self._is_taken(current, question, reply):
            self._finish(current, False)
            return []  # the next tick goes on, so that nobody is asked in a circle
        return self.go_on()

    def status(self) -> dict[str, Any]:
        """What was done and is under way, for people."""
        current = self._current
        return {
            "running": None if current is None else current.turn.partition,
            "comparisons": self._comparisons,
            "keys_received": self._received,
            "keys_sent": self._sent,
            "bytes": self._bytes,
        }

    # ---- asking

    def go_on(self, now_ms: int = NEVER) -> list[Effect]:
        """The next question, if one may be asked now."""
        self._now_ms = max(self._now_ms, now_ms)
        while self._question is None:
            current = self._current = self._current or self._next_turn()
            if current is None or not self._allowance.is_enough(self._turns.is_waited_for):
                break
            partition = current.turn.partition
            if partition in self._replica.doubted:
                self._finish(current, False)  # core/rebuild.py is at it
            elif current.pull:
                return self._ask(current.turn.node, self._fetch(current))
            elif current.push:
                merge = self._merge(current)
                if merge.keys:
                    return self._ask(current.turn.node, merge)
            elif current.buckets:
                message = Enumerate(partition, current.buckets, current.after)
                return self._ask(current.turn.node, message)
            elif current.branches:
                return self._ask(current.turn.node, Descend(partition, current.branches))
            elif current.is_compared:
                self._finish(current, current.is_complete)
            elif self._replica.forest.is_ready(partition):
                root = root_of(self._replica.forest.branches(partition))
                return self._ask(current.turn.node, Compare(partition, root))
            else:
                break
        return []

    def _next_turn(self) -> Comparison | None:
        turn = self._turns.next()
        return None if turn is None else Comparison(turn, self._now_ms)

    def _finish(self, current: Comparison, is_done: bool) -> None:
        self._turns.on_end(current.turn, current.began_ms, is_done)
        self._comparisons += 1
        self._current = None

    def _ask(self, node: bytes, message: Any) -> list[Effect]:
        self._question, self._asked_ms = message, self._now_ms
        return [Send(node, message)]

    def _fetch(self, current: Comparison) -> Fetch:
        """The first keys to pull, as many as fit into a page."""
        keys: list[bytes] = []
        size = 0
        for key, length in current.pull[:PAGE_KEYS]:
            size += length
            if keys and size > self._page_bytes:
                break
            keys.append(key)
        return Fetch(keys, [current.turn.partition] * len(keys))

    def _merge(self, current: Comparison) -> Merge:
        """The first keys to push, as they are by now: what is there already is left out."""
        held = self._replica.maps[current.turn.partition]
        keys: list[bytes] = []
        states: list[bytes] = []
        size = count = 0
        for key, known in current.push[:PAGE_KEYS]:
            state = held.get(key)
            if self._replica.queue.shown_at([key]):
                current.is_complete = False  # nobody else sees it yet (rule 1): compare again
            elif state is not None and digest(state) != known:
                size += len(state)
                if keys and size > self._page_bytes:
                    break
                keys.append(key)
                states.append(state)
            count += 1
        del current.push[:count]
        self._sent += len(keys)
        self._spend(sum(map(len, states)))
        return Merge(keys, [current.turn.partition] * len(keys), states)

    # ---- answers

    def _is_taken(self, current: Comparison, question: Any, reply: Any) -> bool:
        """Take an answer in; False if it is none to this question."""
        if isinstance(question, Compare) and isinstance(reply, Compared):
            return self._on_compared(current, reply)
        if isinstance(question, Descend) and isinstance(reply, Descended):
            return self._on_descended(current, reply)
        if isinstance(question, Enumerate) and isinstance(reply, Enumerated):
            return self._on_page(current, reply)
        return isinstance(question, Merge) and isinstance(reply, Merged)

    def _on_compared(self, current: Comparison, reply: Compared) -> bool:
        if len(reply.branches) not in (0, WIDTH):
            return False
        self._spend(len(reply.branches))
        current.is_compared, current.is_complete = True, reply.complete or self._may_lack
        if reply.branches:
            ours = self._replica.forest.branches(current.turn.partition)
            current.branches = differing(ours, reply.branches)
        return True

    def _on_descended(self, current: Comparison, reply: Descended) -> bool:
        forest, partition = self._replica.forest, current.turn.partition
        if len(reply.buckets) != len(current.branches) * WIDTH:
            return False
        self._spend(len(reply.buckets))
        for row, branch in enumerate(current.branches):
            theirs = reply.buckets[row * WIDTH : (row + 1) * WIDTH]
            first = branch * BUCKETS_A_BRANCH
            current.buckets += [
                first + i for i in differing(forest.buckets(partition, branch), theirs)
            ]
        current.branches = []
        return True

    def _on_page(self, current: Comparison, reply: Enumerated) -> bool:
        """Find what differs, of the keys up to where the page reaches."""
        keys, partition = reply.keys, current.turn.partition
        if not _is_page(current.after, reply):
            return False
        self._spend(sum(map(len, keys)) + len(keys) * HASH_BYTES)
        held = self._replica.maps[partition]
        theirs = dict(zip(keys, reply.digests, strict=True))
        ours = self._replica.forest.keys_in(partition, current.buckets)
        lacked = [(key, b"") for key in ours if _is_in(key, current.after, reply)]
        current.push = [(key, known) for key, known in lacked if key not in theirs]
        for key, known, size in zip(keys, reply.digests, reply.sizes, strict=True):
            if key not in held:
                current.pull.append((key, size))
            elif digest(held[key]) != known:
                current.pull.append((key, size))
                current.push.append((key, known))
        current.after = keys[-1] if keys else current.after
        if reply.last:
            current.buckets = []
        return True

    def _take_in(self, current: Comparison, question: Fetch, reply: Fetched) -> list[Effect]:
        """Merge here what came, as if it had been sent; what is gone there by now is let be."""
        if len(reply.states) != len(question.keys):
            self._finish(current, False)
            return []
        del current.pull[: len(question.keys)]
        rows = zip(question.keys, reply.states, strict=True)
        found = [(key, state) for key, state in rows if state is not None]
        self._received += len(found)
        self._spend(sum(len(state) for _, state in found))
        if not found:
            return self.go_on()
        keys, states = [key for key, _ in found], [state for _, state in found]
        return self._ask(self._replica.node, Merge(keys, question.partitions[: len(keys)], states))

    def _spend(self, count: int) -> None:
        self._allowance.spend(count)
        self._bytes += count


def _is_for_later(question: Any, reply: Any) -> bool:
    """True if the other's tree is still being hashed: the next tick asks again."""
    is_refused = isinstance(reply, Refused) and reply.code == Code.NOT_READY
    return is_refused and isinstance(question, Compare)


def _is_in(key: bytes, after: bytes, page: Enumerated) -> bool:
    """True if a key belongs where the page is: the last one reaches to the end."""
    return key > after and (page.last or key <= page.keys[-1])


def _is_page(after: bytes, page: Enumerated) -> bool:
    """A page leads on from what was asked; a peer that errs must not lead round in a circle."""
    columns = page.keys, page.digests, page.sizes
    follows = all(before < key for before, key in pairwise([after, *page.keys]))
    leads_on = page.last or len(page.keys) > 0
    return follows and leads_on and len(set(map(len, columns))) == 1
