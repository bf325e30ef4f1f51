"""The machines that hold data, as the labels of their Ray nodes name them, and who goes where.

    dynamo-ray/machine=m1      whose disk has the data: who takes over the disk takes over the name
    dynamo-ray/zone=a          what fails together with it; else Ray's ray.io/availability-zone
    dynamo-ray/address=10.1.2.3  where members listen there, if not at the Ray node's own address

(`dynamo-ray`, as Kubernetes allows no `_` there.) A Ray node without the first label holds nothing.
A storage node belongs to its machine for life, by that name: a Ray node's id changes at each start,
an address may.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynamo_ray.core.settings import SettingsError

MACHINE, ZONE, ADDRESS = "dynamo-ray/machine", "dynamo-ray/zone", "dynamo-ray/address"
RAY_ZONE = "ray.io/availability-zone"


@dataclass(frozen=True, slots=True, order=True)
class Machine:
    """A machine that may hold data: its name, its zone (empty if unknown) and its address."""

    name: str
    zone: str
    address: str


def machines_from(ray_nodes: Iterable[tuple[Mapping[str, str], str]]) -> list[Machine]:
    """The machines that Ray nodes (labels and address) stand for, as `in_turns` orders them.

    Raises SettingsError where two say that they are the same: only one of them has its disk.
    """
    found: dict[str, Machine] = {}
    for labels, ray_address in ray_nodes:
        if name := labels.get(MACHINE, ""):
            zone = labels.get(ZONE) or labels.get(RAY_ZONE, "")
            machine = Machine(name, zone, labels.get(ADDRESS) or ray_address)
            known = found.setdefault(name, machine)
            if known != machine:
                raise SettingsError(
                    f"two Ray nodes, at {known.address} and {machine.address}, have the label"
                    f" {MACHINE}={name} (zones {known.zone!r} and {machine.zone!r}); give each"
                    " machine a name of its own"
                )
    return in_turns(found.values())


def in_turns(machines: Iterable[Machine]) -> list[Machine]:
    """Zones take turns, so that the first k machines are in as many zones as can be."""
    met: dict[str, int] = {}
    ranked = []
    for machine in sorted(machines):
        met[machine.zone] = met.get(machine.zone, 0) + 1
        ranked.append((met[machine.zone], machine.zone, machine))
    return [machine for *_, machine in sorted(ranked)]


def nodes_on(machines: Sequence[Machine], nodes: int | None, copies: int) -> list[Machine]:
    """The machine of each of so many nodes; by default each machine has one.

    Raises SettingsError where copies of a key could not be on machines of their own.
    """
    count = len(machines) if nodes is None else nodes
    used = min(count, len(machines))
    if used < copies:
        raise SettingsError(
            f"n is {copies} and {_counted(used, nodes)}; each copy of a key needs a machine of its"
            f" own: start Ray on more with --labels={MACHINE}=NAME, or take a smaller n"
        )
    return [machines[i % len(machines)] for i in range(count)]


def freest(machines: Sequence[Machine], used: Iterable[str]) -> Machine:
    """The machine for one more node: of those with the fewest (by name in `used`) the first."""
    counts = Counter(used)
    return min(machines, key=lambda machine: counts[machine.name])


def _counted(used: int, nodes: int | None) -> str:
    if nodes is not None and used == nodes:
        return f"{nodes} {'node is' if nodes == 1 else 'nodes are'} asked for"
    is_one = used == 1
    return (
        f"{used} {'machine' if is_one else 'machines'} of the Ray cluster"
        f" {'has' if is_one else 'have'} the label {MACHINE}"
    )
