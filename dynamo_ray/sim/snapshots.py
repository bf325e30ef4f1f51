"""The snapshots that a node in the simulator takes now and then: the twin of server/snapshots.py.

Every partition is written aside, one by one, while others go on; then the log is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamo_ray.sim.world import SECOND
from dynamo_ray.storage.codec import Record
from dynamo_ray.storage.errors import StorageError, SyncFailedError
from dynamo_ray.storage.snapshot import NewSnapshot

if TYPE_CHECKING:
    from dynamo_ray.sim.nodes import StorageNode

SNAPSHOT_S = 0.7


class Snapshots:
    """Those of one run of a node."""

    def __init__(self, node: StorageNode) -> None:
        self._node = node

    def begin(self) -> None:
        """Take one after a while, and again."""
        self._node.after(int(SNAPSHOT_S * SECOND), "snapshot", self._take)

    def _take(self) -> None:
        node, taking = self._node, None
        if node.is_still:
            try:
                taking = node.journal.begin_snapshot()
            except SyncFailedError:
                node.fail()
                return
        if taking is not None:
            self._write_aside(taking, 0)
        self.begin()

    def _write_aside(self, taking: NewSnapshot, partition: int) -> None:
        node = self._node
        try:
            if partition < node.settings.partitions:
                of, hints = node.replica.maps[partition], node.replica.hints.of
                taking.write(partition, [Record(partition, k, of[k], hints(k)) for k in of])
                partition += 1
            elif node.is_still:
                taking.finish()
                node.journal.cut()
                return
            pause_us = node.taking(node.sync_us)
            node.after(pause_us, "aside", self._write_aside, taking, partition)
        except StorageError:
            taking.abandon()
