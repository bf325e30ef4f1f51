"""A cluster's directory: founded once, read at every start, and judged before anything is started.

The directory holds the charter and the secrets in CLUSTER.json, and one directory per node. A
cluster keeps its settings and its first members for life: who starts it again with others must hear
that, rather than get what was not asked for.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from dynamo_ray.core.charter import FORMAT, Charter, CharterError, charter_from
from dynamo_ray.core.machines import MACHINE, ZONE, Machine, nodes_on
from dynamo_ray.core.membership import View, merge_views, view_from
from dynamo_ray.core.ring import Member
from dynamo_ray.core.settings import SettingsError, settings_from
from dynamo_ray.core.slots import Placement, placed
from dynamo_ray.errors import BadRequestError, DataDirectoryError
from dynamo_ray.storage.errors import StorageError
from dynamo_ray.storage.ownership import holds_records, is_in_use, refuse_others
from dynamo_ray.storage.views import PATH as VIEW
from dynamo_ray.storage.views import read_view
from dynamo_ray.wire.keys import SECRET_BYTES

CHARTER_FILE = "CLUSTER.json"
NODES = 5
UNDO_S = 3.0


@dataclass(frozen=True, slots=True)
class Said:
    """The settings that were given (by name; `limits` and `times` as dicts), and the members.

    On several `machines` these say how many nodes there are, if `nodes` does not, and the zones.
    """

    settings: dict[str, Any]
    nodes: int | None
    zones: Sequence[str]
    weights: Sequence[float]
    machines: Sequence[Machine] = ()

    def charter(self, name: str) -> Charter:
        """The charter of a new cluster. Raises SettingsError."""
        settings = settings_from(self.settings)
        places = self._places(settings.n)
        count = len(places)
        if self.weights and len(self.weights) != count:
            raise SettingsError(
                f"there are {len(self.weights)} weights for {count} nodes; give one each"
            )
        weights = self.weights or [1] * count
        members = tuple(
            Member(os.urandom(8), f"n{i + 1}", zone, weight, machine)
            for i, ((zone, machine), weight) in enumerate(zip(places, weights, strict=True))
        )
        return Charter(os.urandom(16), name, settings, members)

    def _places(self, copies: int) -> list[tuple[str, str]]:
        """Zone and machine of each node. Raises SettingsError if keys had fewer than n copies."""
        if self.machines:
            if self.zones:
                raise SettingsError(
                    f"zones come from the Ray nodes' label {ZONE} where machines have names;"
                    " leave them out"
                )
            on = nodes_on(self.machines, self.nodes, copies)
            return [(machine.zone, machine.name) for machine in on]
        count = NODES if self.nodes is None else self.nodes
        if count < copies:
            raise SettingsError(
                f"n is {copies} and there are {count} nodes; a key's copies need n nodes"
            )
        return [(zone, "") for zone in self._zones(count)]

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


@dataclass(frozen=True, slots=True)
class Founded:
    """A cluster's directory, read. `is_new`: it was founded just now, by whoever asked."""

    folder: Path
    charter: Charter
    secrets: list[bytes]
    is_new: bool

    def placement(self, machines: Iterable[str], do_on: Callable[..., Any]) -> Placement:
        """Who its nodes are by now, and who owns what, as directories tell on these machines."""
        known = [view_from(do_on(machine, views_in, self.folder)) for machine in machines]
        return placed(self.charter, reduce(merge_views, known, View()))


def views_in(folder: Path) -> list[Any]:
    """What the nodes that have their directories in `folder` know together, as rows."""
    paths = sorted(folder.glob(f"*/{VIEW}"))
    return reduce(merge_views, (read_view(p.parent) or View() for p in paths), View()).to_rows()


def agreed(folder: Path, name: str, said: Said) -> Charter | None:
    """The charter of the cluster in `folder`, None if one can be founded there.

    Changes nothing. Raises SettingsError or DataDirectoryError for whatever speaks against it.
    """
    path = folder / CHARTER_FILE
    if not _is_there(path):
        if folder.exists() and not folder.is_dir():
            raise DataDirectoryError(f"{folder} is no directory; choose another data directory")
        if _holds_something(folder):
            raise DataDirectoryError(
                f"{folder} is not empty and holds no {CHARTER_FILE}; choose another data directory"
            )
        said.charter(name)
        return None
    charter, _ = _existing(path, name)
    said.check(charter)
    for member in charter.members:
        place = folder / member.name
        try:
            refuse_others(place, charter.cluster_id, member.node, charter.settings.partitions)
        except (StorageError, OSError) as error:
            raise DataDirectoryError(str(error)) from error
    return charter


def found(folder: Path, name: str, said: Said) -> Founded:
    """Found the cluster in `folder`, or read the one that is there. Raises DataDirectoryError."""
    path = folder / CHARTER_FILE
    if agreed(folder, name, said) is not None:
        return Founded(folder, *_existing(path, name), is_new=False)
    charter, secret = said.charter(name), random_secrets.token_bytes(SECRET_BYTES)
    written = json.dumps({**charter.to_dict(), "secrets": [secret.hex()]}, indent=1)
    try:
        is_ours = _write_first(path, written)
    except OSError as error:
        raise DataDirectoryError(
            f"nothing can be written in {folder} ({error.strerror}); choose another data directory"
        ) from error
    if not is_ours:
        there, secrets = _existing(path, name)
        said.check(there)
        return Founded(folder, there, secrets, is_new=False)
    return Founded(folder, charter, [secret], is_new=True)


def charter_in(folder: Path) -> Charter | None:
    """The charter of the cluster that lives in `folder`, if one does. Raises DataDirectoryError."""
    path = folder / CHARTER_FILE
    return _read(path)[0] if _is_there(path) else None


def nodes_away(founded: Placement, there: Sequence[Machine], ray: str) -> list[str]:
    """The names of the nodes whose machines are not there now; they start when these come.

    Raises SettingsError where no node would find its data; `ray` says which Ray cluster it is.
    """
    names = {machine.name for machine in there}
    homes = {m.name: m.machine for m in founded.ring.members if m.machine}
    charter = founded.charter
    if not homes and len(there) > 1:
        raise SettingsError(
            f"cluster {charter.name!r} was founded on one machine, which had no label {MACHINE},"
            f" and the Ray cluster at {ray} has several; start it in a Ray on that machine alone"
        )
    away = [name for name, machine in homes.items() if machine not in names]
    if away and len(away) == len(homes):
        raise SettingsError(
            f"the data of cluster {charter.name!r} is on {', '.join(sorted(set(homes.values())))},"
            f" and no Ray node of the cluster at {ray} has such a label {MACHINE}"
        )
    return away


def _do_here(machine: str, act: Callable[..., Any], *args: Any) -> Any:
    return act(*args)


def undo(founded: Founded, do_on: Callable[..., Any] = _do_here) -> None:
    """Remove what a founding left whose cluster never came up, so that another can be founded.

    Not if a node runs there after all (somebody else has started the cluster since), nor if a node
    took a write, which a client that was quick may have been told is done; nor if a machine cannot
    be asked. `do_on(machine, act, *args)` acts on a machine.
    """
    if not founded.is_new:
        return
    places: dict[str, list[Path]] = {}
    for member in founded.charter.members:
        places.setdefault(member.machine, []).append(founded.folder / member.name)
    if any(do_on(machine, are_kept, on_it) for machine, on_it in places.items()):
        return
    for machine, on_it in places.items():
        do_on(machine, remove, on_it)
    (founded.folder / CHARTER_FILE).unlink(missing_ok=True)


def are_kept(places: Sequence[Path]) -> bool:
    """True if one of these nodes runs, or has taken a write."""
    deadline = time.monotonic() + UNDO_S  # processes that were told to end are ending
    while any(map(is_in_use, places)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return any(map(is_in_use, places)) or any(map(holds_records, places))


def remove(places: Sequence[Path]) -> None:
    """Remove the directories of nodes, and the one around them on a machine that has no more."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # it holds something, as CLUSTER.json
        places[0].parent.rmdir()


def check_host(host: str) -> None:
    """Refuse an address at which nobody can listen on this machine. Raises BadRequestError."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            one.bind((host, 0))
    except OSError as error:
        raise BadRequestError(
            f"members cannot listen at {host} ({error.strerror or error});"
            " give an address of this machine"
        ) from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read ({error.strerror})") from error


def _holds_something(folder: Path) -> bool:
    """True if there is more than what others leave who found it at this very moment."""
    if not folder.is_dir():
        return False
    begun = f".{CHARTER_FILE}."
    return any(not one.name.startswith(begun) for one in folder.iterdir()) and not _is_there(
        folder / CHARTER_FILE
    )


def _existing(path: Path, name: str) -> tuple[Charter, list[bytes]]:
    charter, secrets = _read(path)
    if charter.name != name:
        raise DataDirectoryError(
            f"{path.parent} belongs to cluster {charter.name!r}; choose another data directory"
        )
    return charter, secrets


def _read(path: Path) -> tuple[Charter, list[bytes]]:
    try:
        given = json.loads(path.read_text())
        written_in = given["format"]
        if isinstance(written_in, int) and written_in > FORMAT:
            raise DataDirectoryError(
                f"{path} was written in format {written_in}, this version reads {FORMAT};"
                " start it with the newer version"
            )
        secrets = [bytes.fromhex(secret) for secret in given["secrets"]]
        return charter_from(given), secrets
    except DataDirectoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, CharterError) as error:
        raise DataDirectoryError(
            f"{path} cannot be read ({error}); restore it, or choose another data directory"
        ) from error


def _write_first(path: Path, content: str) -> bool:
    """Write the file, durably, unless somebody else has written it first: then False."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = folder / f".{CHARTER_FILE}.{random_secrets.token_hex(4)}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(aside, path)  # unlike a rename it does not replace what another start wrote
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_names(folder)
    return True


def _sync_names(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
