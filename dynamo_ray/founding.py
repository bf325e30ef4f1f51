"""What a caller of `start` said of a cluster: a new one is made of it, an old one must agree.

A cluster keeps its settings and its first members for life. Who starts it again with others must
hear that, rather than get what was not asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dynamo_ray.core.charter import Charter
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import SettingsError, settings_from

NODES = 5


@dataclass(frozen=True, slots=True)
class Said:
    """The settings that were given (by name; `limits` and `times` as dicts), and the members."""

    settings: dict[str, Any]
    nodes: int | None
    zones: Sequence[str]
    weights: Sequence[float]

    def charter(self, name: str) -> Charter:
        """The charter of a new cluster. Raises SettingsError."""
        settings = settings_from(self.settings)
        count = NODES if self.nodes is None else self.nodes
        if count < settings.n:
            raise SettingsError(
                f"n is {settings.n} and there are {count} nodes; a key's copies need n nodes"
            )
        if self.weights and len(self.weights) != count:
            raise SettingsError(
                f"there are {len(self.weights)} weights for {count} nodes; give one each"
            )
        weights = self.weights or [1] * count
        members = tuple(
            Member(os.urandom(8), f"n{i + 1}", zone, weight)
            for i, (zone, weight) in enumerate(zip(self._zones(count), weights, strict=True))
        )
        return Charter(os.urandom(16), name, settings, members)

    def check(self, charter: Charter) -> None:
        """Refuse to start a cluster with other settings than its own. Raises SettingsError."""
        for what, said, has in self._pairs(charter):
            if said != has:
                raise SettingsError(
                    f"cluster {charter.name!r} has {what}={has} for life, not {said}; leave it"
                    " out, or found another cluster"
                )

    def _pairs(self, charter: Charter) -> Iterator[tuple[str, Any, Any]]:
        """The name of each thing that was said, what was said, and what the cluster has."""
        count = len(charter.members)
        if self.nodes is not None:
            yield "nodes", self.nodes, count
        if self.zones:
            yield "zones", self._zones(count), [member.zone for member in charter.members]
        if self.weights:
            yield "weights", list(self.weights), [member.weight for member in charter.members]
        for name, said in self.settings.items():
            has = getattr(charter.settings, name)
            if isinstance(said, dict):
                for part, value in said.items():
                    yield f"{name}.{part}", value, getattr(has, part, "nothing of that name")
            else:
                yield name, said, has

    def _zones(self, count: int) -> list[str]:
        return [self.zones[i % len(self.zones)] if self.zones else "" for i in range(count)]
