"""Where members run: storage nodes where their data is, coordinators spread, and both by labels.

A storage node is pinned to its machine by the label that names it: it waits for the machine and
never starts elsewhere, on an empty disk. (Ray's own pin, node affinity, names a Ray node that does
not come back.) A coordinator has nothing to lose, so it prefers its machine and takes any other.
A Ray without labels is one machine; if it is several, nobody knows which of them has the data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray

from dynamo_ray.core.machines import ADDRESS, MACHINE, Machine, machines_from
from dynamo_ray.core.settings import SettingsError
from dynamo_ray.errors import UnavailableError

LOOPBACK = "127.0.0.1"
ERRAND_S = 20.0
_log = logging.getLogger("dynamo_ray.start")


def machines() -> list[Machine]:
    """The machines of this Ray cluster that may hold data and that answer; zones take turns.

    None if it is one machine without labels. Ray may take one for alive that has lost its power, so
    each is asked. Raises SettingsError for labels that cannot be, or that are missing.
    """
    known = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in known if node["Alive"]]
    found = machines_from((node["Labels"], node["NodeManagerAddress"]) for node in alive)
    addresses = {node["NodeManagerAddress"] for node in alive}
    if not found and len(addresses) > 1:
        raise SettingsError(
            f"the Ray cluster has {len(addresses)} machines and none has the label {MACHINE}; start"
            f" Ray with --labels={MACHINE}=NAME on each that is to hold data"
        )
    return _answering(found)


def _answering(found: list[Machine]) -> list[Machine]:
    asked = {machine: _errand(machine.name, _answer).remote() for machine in found}
    if not asked:
        return []
    told, silent = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ERRAND_S)
    for errand in silent:
        ray.cancel(errand, force=True)
    for machine in found:
        if asked[machine] not in told:
            _log.warning("machine %s at %s does not answer", machine.name, machine.address)
    return [machine for machine in found if asked[machine] in told]


def _answer() -> bool:
    return True


def pinned(machine: str) -> dict[str, Any]:
    """The options of an actor that must run on that machine; none if it has no name."""
    return {"label_selector": {MACHINE: machine}} if machine else {}


def preferred(turn: int, there: Sequence[Machine]) -> dict[str, Any]:
    """The options of the so-many-th coordinator: the machines in turn, or else any of them."""
    if not there:
        return {}
    everywhere = ",".join(sorted(machine.name for machine in there))
    return {
        **pinned(there[turn % len(there)].name),
        "fallback_strategy": [{"label_selector": {MACHINE: f"in({everywhere})"}}],
    }


def own_address() -> str:
    """Where a member that runs in this process listens and is reached."""
    labels = ray.get_runtime_context().get_node_labels()
    if MACHINE not in labels:
        return LOOPBACK
    own = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return str(labels.get(ADDRESS) or own)


def do_on(machine: str, act: Callable[..., Any], *args: Any) -> Any:
    """Call it on that machine and wait, bounded in time; here if the machine has no name.

    Raises UnavailableError if the machine is away.
    """
    if not machine:
        return act(*args)
    try:
        return ray.get(_errand(machine, act).remote(*args), timeout=ERRAND_S)
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise UnavailableError(1, 0, f"machine {machine!r} does not answer: {error}") from error


def _errand(machine: str, act: Callable[..., Any]) -> Any:
    return ray.remote(act).options(num_cpus=0, max_retries=0, **pinned(machine))
