"""One request of a client, tried at one coordinator after another until one answers.

    start ─► asked ── answered ───────────────────────────► Done
               │ the connection was lost, the coordinator refused: the next one, same put ids
               │ it is silent: the next one as well; the first good answer counts
               └ time is up, or nobody is left: Done(unavailable; unknown if maybe applied)

Coordinators are interchangeable. A put may be repeated because its put ids make it harmless (DESIGN
rule 7); it is repeated whole, never changed. Keys that one coordinator found unavailable, or could
not finish, stay the caller's to repeat: only a request that got no answer at all is tried again.
While several coordinators work on one request, an answer that is not good waits for a better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
        self._silent: list[Any] = []
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
        if isinstance(reply, Refused) and reply.code in NOT_BEGUN:
            self._refusal = reply
            return self._ask_next()
        if _is_final(reply):
            return self._answer(reply)
        self._poor = reply if self._poor is None else _better(self._poor, reply)
        if self._pending and not _is_final(self._poor):
            return []
        return self._answer(self._poor)

    def on_failure(self, maybe_applied: bool) -> list[Ask | Answered]:
        """The coordinator could not be reached, or was lost while it worked on the request."""
        if self._answered:
            return []
        self._pending -= 1
        self._maybe_applied = self._maybe_applied or maybe_applied
        return self._ask_next()

    def on_silence(self, silent: Any, known: Sequence[Any] = ()) -> list[Ask | Answered]:
        """No sign of life from a coordinator that works on it: ask another one, too.

        `known` are the coordinators that can be reached by now. The silent are asked again last.
        """
        if self._answered:
            return []
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
        if self._poor is not None:
            return self._answer(self._poor)
        return self._answer(Refused(Code.UNKNOWN, "no coordinator answered in time"))

    def _ask_next(self) -> list[Ask | Answered]:
        """The next try. While somebody still works on it, nobody silent is asked again for it."""
        if self._pending and (not self._left or self._left[0].coordinator in self._silent):
            return []
        if self._poor is not None and not self._pending:
            return self._answer(self._poor)
        if not self._left:
            return self._give_up("no coordinator could be reached")
        self._pending += 1
        return [self._left.pop(0)]

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
        if isinstance(reply, PutDone) and reply.failures:
            failures = (
                f if f.code in ALWAYS_REFUSED else f._replace(code=Code.UNKNOWN)
                for f in reply.failures
            )
            return replace(reply, failures=tuple(failures))
        return reply

    def _answer(self, reply: Any) -> list[Ask | Answered]:
        self._answered = True
        return [Answered(self._honest(reply))]


def _is_final(reply: Any) -> bool:
    """True if no other coordinator could say anything better."""
    if isinstance(reply, Refused):
        return reply.code in ALWAYS_REFUSED
    return not reply.failures or all(f.code in ALWAYS_REFUSED for f in reply.failures)


def _better(one: Any, other: Any) -> Any:
    """What two answers to one request say together: a key that either did well, went well."""
    if isinstance(one, Refused) or isinstance(other, Refused):
        return other if isinstance(one, Refused) else one
    failed = {failure.index for failure in one.failures}
    failures = tuple(failure for failure in other.failures if failure.index in failed)
    again = {failure.index for failure in other.failures} - failed
    columns = ("contexts",) if isinstance(other, PutDone) else ("states", "seals")
    filled = {}
    for name in columns:
        filled[name] = [
            mine if row in again else theirs
            for row, (mine, theirs) in enumerate(
                zip(getattr(one, name), getattr(other, name), strict=True)
            )
        ]
    return replace(other, failures=failures, **filled)
