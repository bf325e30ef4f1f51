"""What is in flight at a coordinator: operations, and the calls that they wait for.

    begun ─► answered ─► closed        a caller waits until it is answered;
      └────────────────────┘           stragglers and stand-ins are waited for until it is closed

Only operations that a caller waits for count against the bound on requests (rule 19). A node that
hangs keeps the others open until it is suspected; they are as many as calls to it may be open at
once, and those that wait for an exchange. What is too much for its connection goes elsewhere.
"""

from __future__ import annotations

from dynamo_ray.core.operation import Call, Operation


class InFlight:
    """Operations by their calls; each is in it from its beginning until it is closed."""

    __slots__ = ("_by_call", "_last_call", "_unanswered", "operations")

    def __init__(self) -> None:
        self.operations: dict[Operation, None] = {}
        self._unanswered: set[Operation] = set()
        self._by_call: dict[int, Operation] = {}
        self._last_call = 0

    def __len__(self) -> int:
        return len(self.operations)

    def __contains__(self, operation: Operation) -> bool:
        return operation in self.operations

    @property
    def unanswered(self) -> int:
        """How many operations a caller waits for."""
        return len(self._unanswered)

    def begin(self, operation: Operation) -> None:
        """A caller waits for it from now on."""
        self.operations[operation] = None
        self._unanswered.add(operation)

    def on_answered(self, operation: Operation) -> None:
        """Nobody waits for it any longer; what is under way for it goes on."""
        self._unanswered.discard(operation)

    def close(self, operation: Operation) -> list[int]:
        """Nothing more will come of it; the calls that were open."""
        self.operations.pop(operation, None)
        self._unanswered.discard(operation)
        calls = list(operation.calls)
        for call in calls:
            self._by_call.pop(call, None)
        operation.calls.clear()
        return calls

    def new_call(self) -> int:
        """A number that no call had."""
        self._last_call += 1
        return self._last_call

    def add_call(self, call: int, operation: Operation, asked: Call) -> None:
        """An operation waits for a call."""
        self._by_call[call] = operation
        operation.calls[call] = asked

    def end_call(self, call: int) -> tuple[Operation, Call] | None:
        """Whose call has ended, and what was asked; None if nobody waits for it."""
        operation = self._by_call.pop(call, None)
        return None if operation is None else (operation, operation.calls.pop(call))

    def of_call(self, call: int) -> Operation:
        """Whose call it is; it must be open."""
        return self._by_call[call]
