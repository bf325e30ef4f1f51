"""What a cluster is founded on: its id, its name, its settings and its storage nodes.

Every node keeps the charter beside its data and every coordinator gets it at its start, so nobody
has to be asked for it. The ring is a function of the charter (Dynamo §4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamo_ray.core.ring import Member, Ring, claim
from dynamo_ray.core.settings import Settings, settings_from

FORMAT = 2  # since 2 a member has a machine


class CharterError(ValueError):
    """A charter that cannot be, or that this version cannot read."""


@dataclass(frozen=True, slots=True)
class Charter:
    """The foundation of one cluster; `cluster_id` is 16 random bytes."""

    cluster_id: bytes
    name: str
    settings: Settings
    members: tuple[Member, ...]

    def ring(self) -> Ring:
        """The ring that the charter's nodes form."""
        return claim(self.members, self.settings.partitions, self.settings.n)

    def member(self, name: str) -> Member:
        """The storage node of that name. Raises CharterError if there is none."""
        for member in self.members:
            if member.name == name:
                return member
        raise CharterError(f"cluster {self.name!r} has no node {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """The charter as plain values, for JSON."""
        return {
            "format": FORMAT,
            "cluster_id": self.cluster_id.hex(),
            "name": self.name,
            "settings": self.settings.to_dict(),
            "members": [
                {
                    "node": m.node.hex(),
                    "name": m.name,
                    "zone": m.zone,
                    "weight": m.weight,
                    "machine": m.machine,
                }
                for m in self.members
            ],
        }


def charter_from(given: dict[str, Any]) -> Charter:
    """The charter that `to_dict` gave. Raises CharterError for anything else."""
    try:
        if given["format"] > FORMAT:
            raise CharterError(
                f"the charter has format {given['format']}; this version reads up to {FORMAT}"
            )
        members = tuple(
            Member(
                bytes.fromhex(m["node"]), m["name"], m["zone"], m["weight"], m.get("machine", "")
            )
            for m in given["members"]
        )
        settings = settings_from(given["settings"])
        return Charter(bytes.fromhex(given["cluster_id"]), given["name"], settings, members)
    except (KeyError, TypeError, AttributeError) as error:
        raise CharterError(f"the charter cannot be read: {error}") from error
