"""What a recovery found, as a value: maps, what is damaged, and what is in doubt."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo_ray.storage.damage import Damage
from dynamo_ray.storage.snapshot import Generation


@dataclass
class Recovery:
    """What was found. `maps`: {key: state} per partition. `hints`: {key: node ids}.

    `quarantined`: partitions of which something is known to be damaged. `suspect`: something is
    lost and nobody can say of which partition. `doubted`: partitions that cannot be proved
    complete, now or since an earlier start, for these reasons or after a crash (DESIGN rule 9).
    `notes` say in words all that was not as it should be; `damages` are those that no crash leaves.
    """

    maps: list[dict[bytes, bytes]]
    hints: dict[bytes, bytes] = field(default_factory=dict)
    position: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    quarantined: frozenset[int] = frozenset()
    suspect: bool = False
    doubted: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    generation: Generation | None = None

    @property
    def complete(self) -> bool:
        """Nothing is doubted: the node's copies count towards R."""
        return not self.doubted
