"""One request of a client, tried at one coordinator after another until one answers.

    start ─► asked ── answered ───────────────────────────► Done
               │ the connection was lost, the coordinator refused: the next one, same put ids
               │ it is silent: the next one as well; the first good answer counts
               │ it found keys unavailable: one other is asked for those keys, once
               └ time is up, or nobody is left: Done(unavailable; unknown if maybe applied)

Coordinators are interchangeable. A put may be repeated because its put ids make it harmless (DESIGN
rule 7). While several coordinators work on one request, an answer that is not good waits for a
better one. Unavailable says that nothing was applied, and only what one coordinator sees: it may
itself be cut off from the nodes, or suspect them wrongly. So another one is asked, but not more of
them: where nodes are really gone, every request would come to every coordinator. Keys whose end is
unknown stay the caller's to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynamo_ray.core.answers import (
    better,
    doubted,
    filled,
    is_final,
    narrowed,
    unavailable_rows,
)
from dynamo_ray.core.messages import ALWAYS_REFUSED, ClientPut, Code, PutDone, Refused
from dynamo_ray.core.values import value

ROUNDS = 3
PAUSE_S = 0.05
# Refusals of one coordinator, at this moment.
NOT_BEGUN = frozenset({Code.OVERLOADED, Code.NOT_READY, Code.EXPIRED})


@value
class Ask:
    """Effect: send the request to this coordinator, after `wait_s` seconds."""

    coordinator: Any
    message: Any
    wait_s: float = 0.0


@value
class Answered:
    """Effect: the coordinator's reply, or a Refused that says why there is none."""

    reply: Any


class Attempts:
    """The machine of one request: `coordinators` in the order in which to try them."""

    def __init__(self, message: Any, coordinators: Sequence[Any]) -> None:
        self._message = message
        self._left = [
            Ask(one, message, PAUSE_S * turn) for turn in range(ROUNDS) for one in coordinators
        ]
        self._known = list(coordinators)
        self._asked: list[Any] = []
        self._silent: list[Any] = []
        self._has_other = False
        self._elsewhere: list[int] | None = None
        self._pending = 0
        self._maybe_applied = False
        self._refusal: Refused | None = None
        self._poor: Any = None
        self._answered = False

    @property
    def answered(self) -> bool:
        """True once the caller has its answer."""
        return self._answered

    def start(self) -> list[Ask | Answered]:
        """Ask the first coordinator."""
        return self._ask_next()

    def on_reply(self, reply: Any) -> list[Ask | Answered]:
        """An answer; a refusal sends the request on, unless every coordinator would refuse it."""
        if self._answered:
            return []
        self._pending -= 1
        if self._elsewhere is not None:
            return self._on_second(reply, self._elsewhere)
        if isinstance(reply, Refused) and reply.code in NOT_BEGUN:
            self._refusal = reply
            return self._ask_next()
        if is_final(reply):
            return self._answer(reply)
        self._poor = reply if self._poor is None else better(self._poor, reply)
        return self._answer(self._poor) if is_final(self._poor) else self._ask_elsewhere()

    def on_failure(self, maybe_applied: bool) -> list[Ask | Answered]:
        """The coordinator could not be reached, or was lost while it worked on the request."""
        if self._answered:
            return []
        self._pending -= 1
        if self._elsewhere is not None:
            return self._end_second(maybe_applied)
        self._maybe_applied = self._maybe_applied or maybe_applied
        return self._ask_next()

    def on_silence(self, silent: Any, known: Sequence[Any] = ()) -> list[Ask | Answered]:
        """No sign of life from a coordinator that works on it: ask another one, too.

        `known` are the coordinators that can be reached by now. The silent are asked again last.
        """
        if self._answered:
            return []
        if self._elsewhere is not None:
            return self._end_second(maybe_applied=True)
        self._silent.append(silent)
        new = [one for one in known if one not in self._known]
        self._known += new
        self._left = [Ask(one, self._message) for one in new] + sorted(
            self._left, key=lambda ask: ask.coordinator in self._silent
        )
        self._maybe_applied = True
        return self._ask_next()

    def on_deadline(self) -> list[Ask | Answered]:
        """The caller's time is up: whatever was sent may still be applied."""
        if self._answered:
            return []
        if self._elsewhere is not None:
            return self._end_second(maybe_applied=True)
        if self._poor is not None:
            return self._answer(self._poor)
        return self._answer(Refused(Code.UNKNOWN, "no coordinator answered in time"))

    def _ask_next(self) -> list[Ask | Answered]:
        """The next try. While somebody still works on it, nobody silent is asked again for it."""
        if self._pending and (not self._left or self._left[0].coordinator in self._silent):
            return []
        if self._poor is not None and not self._pending:
            return self._ask_elsewhere()
        if not self._left:
            return self._give_up("no coordinator could be reached")
        self._pending += 1
        ask = self._left.pop(0)
        self._asked.append(ask.coordinator)
        return [ask]

    def _ask_elsewhere(self) -> list[Ask | Answered]:
        """The answer is poor: ask another one for what was unavailable.

        While somebody silent may still answer for all, for all of it: then the better one counts.
        """
        rows, fresh = unavailable_rows(self._poor), self._fresh()
        if self._has_other or not rows or not fresh:
            return [] if self._pending else self._answer(self._poor)
        self._has_other = True
        self._asked.append(fresh[0])
        self._pending += 1
        if self._pending > 1:
            return [Ask(fresh[0], self._message)]
        self._elsewhere = rows
        return [Ask(fresh[0], narrowed(self._message, rows))]

    def _fresh(self) -> list[Any]:
        """Who was not asked yet, and is not silent."""
        heard = [*self._asked, *self._silent]
        return [ask.coordinator for ask in self._left if ask.coordinator not in heard]

    def _on_second(self, reply: Any, rows: Sequence[int]) -> list[Ask | Answered]:
        if isinstance(reply, Refused):
            return self._end_second(maybe_applied=reply.code not in NOT_BEGUN | ALWAYS_REFUSED)
        return self._answer(filled(self._poor, rows, reply, self._message.strict))

    def _end_second(self, maybe_applied: bool) -> list[Ask | Answered]:
        """The other one said nothing: the first answer counts, but for what it may have applied.

        If it has not begun, the next one is the other one.
        """
        rows, self._elsewhere = self._elsewhere or (), None
        if not maybe_applied:
            self._has_other = False
            return self._ask_elsewhere()
        if isinstance(self._message, ClientPut):
            return self._answer(doubted(self._poor, rows))
        return self._answer(self._poor)

    def _give_up(self, text: str) -> list[Ask | Answered]:
        if self._maybe_applied and isinstance(self._message, ClientPut):
            return self._answer(Refused(Code.UNKNOWN, text))
        return self._answer(self._refusal or Refused(Code.UNAVAILABLE, text))

    def _honest(self, reply: Any) -> Any:
        """A later coordinator's refusal says nothing of what an earlier one applied (rule 7)."""
        if not self._maybe_applied or not isinstance(self._message, ClientPut):
            return reply
        if isinstance(reply, Refused) and reply.code not in ALWAYS_REFUSED:
            return Refused(Code.UNKNOWN, reply.text)
        if isinstance(reply, PutDone):
            open_ends = [f.index for f in reply.failures if f.code not in ALWAYS_REFUSED]
            return doubted(reply, open_ends)
        return reply

    def _answer(self, reply: Any) -> list[Ask | Answered]:
        self._answered = True
        return [Answered(self._honest(reply))]
