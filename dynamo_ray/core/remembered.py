"""The put ids of versions that are gone, for long enough to know a retry (DESIGN rule 7).

A version that is still there carries its put id itself. Only when it is replaced, or its key is
forgotten, does the id move here. Two generations bound both time and room: when the young one is
full or old enough it becomes the old one, and the old one is dropped. So an id is remembered for at
least one `keep_ms` unless more than `most` ids come within that time; then the oldest go first.
"""

from __future__ import annotations

from collections.abc import Iterable


class RememberedPuts:
    """From stored put id (16 bytes) to the dot (38 bytes: writer, counter) it was minted as."""

    def __init__(self, keep_ms: int, most: int) -> None:
        self._keep_ms = keep_ms
        self._most = max(2, most)
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._turned_ms = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def generations(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """The young one, where new ids go, and the old one. `settle` must follow."""
        return self._young, self._old

    def settle(self) -> None:
        """Keep the bound after ids were put into `young`."""
        if len(self._young) * 2 >= self._most:
            self._turn()

    def remember(self, gone: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the ids of versions that are no longer part of any state here."""
        self._young.update(gone)
        self.settle()

    def forget(self, gone: Iterable[tuple[bytes, bytes]]) -> None:
        """The replacement was undone: the versions are part of a state again, or never were."""
        for put_id, _ in gone:
            self._young.pop(put_id, None)
            self._old.pop(put_id, None)

    def get(self, put_id: bytes) -> bytes | None:
        """The dot that the operation was minted as, if that is remembered."""
        return self._young.get(put_id) or self._old.get(put_id)

    def on_tick(self, now_ms: int) -> None:
        """Let go of what is older than the time to keep; `now_ms` only has to rise."""
        if now_ms - self._turned_ms >= self._keep_ms:
            self._turned_ms = now_ms
            self._turn()

    def _turn(self) -> None:
        self._old = self._young
        self._young = {}
