"""start, stop and node kill: what changes a cluster. Each says first what it will do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import render
from .exits import CommandError, Exit
from .interrupts import deaf, signals_interrupt
from .options import Change, Json, Target, command
from .reach import connected, name_of

if TYPE_CHECKING:
    from dynamo_ray.cluster import Cluster
    from dynamo_ray.config import Profile
    from dynamo_ray.core.machines import Machine
    from dynamo_ray.founding import Said

DEFAULT_NAME = "default"
NODE_TITLE = b"ray::NodeActor"
SHAPE, RAY = "Shape", "Ray"

Name = Annotated[
    str | None, typer.Argument(metavar="NAME", show_default=False, help="The cluster's name.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    command(app, "start", rich_help_panel="Clusters")(start)
    command(app, "stop", rich_help_panel="Clusters")(stop)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a new cluster looks like; one that exists keeps what it has."""

    nodes: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default="5, or one on each machine",
            rich_help_panel=SHAPE,
            help="Storage nodes.",
        ),
    ] = None
    n: Annotated[
        int | None,
        typer.Option(
            "--n", min=1, show_default="3", rich_help_panel=SHAPE, help="Copies of each key."
        ),
    ] = None
    r: Annotated[
        int | None,
        typer.Option(
            "--r", min=1, show_default="2", rich_help_panel=SHAPE, help="Answers for a read."
        ),
    ] = None
    w: Annotated[
        int | None,
        typer.Option(
            "--w", min=1, show_default="2", rich_help_panel=SHAPE, help="Copies for a write."
        ),
    ] = None
    coordinators: Annotated[
        int, typer.Option(min=1, rich_help_panel=SHAPE, help="Coordinators.")
    ] = 2
    durability: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            show_default="written",
            rich_help_panel=SHAPE,
            help="memory, written (fsync each second) or synced (fsync before each answer).",
        ),
    ] = None
    zones: Annotated[
        str,
        typer.Option(
            metavar="A,B,C",
            show_default=False,
            rich_help_panel=SHAPE,
            help="Zones to spread nodes and copies over, in turn.",
        ),
    ] = ""
    partitions: Annotated[
        int | None,
        typer.Option(min=1, show_default="256", rich_help_panel=SHAPE, help="Parts of the ring."),
    ] = None

    def said(self, machines: Sequence[Machine] = ()) -> Said:
        """What was given, and nothing that was not, for these machines."""
        from dynamo_ray.founding import Said

        names = ("n", "r", "w", "partitions", "durability")
        given = {name: getattr(self, name) for name in names}
        settings = {name: value for name, value in given.items() if value is not None}
        zones = [zone for zone in self.zones.split(",") if zone]
        return Said(settings, self.nodes, zones, (), machines)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a new cluster lives."""

    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default=False,
            rich_help_panel=RAY,
            help="Where its data is; by default ~/.dynamo_ray/data/NAME.",
        ),
    ] = None
    host: Annotated[
        str | None,
        typer.Option(
            metavar="HOST",
            show_default="127.0.0.1, or each machine's own address",
            rich_help_panel=RAY,
            help="Where its members listen.",
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            show_default=False,
            rich_help_panel=RAY,
            help="The Ray cluster to use (or $RAY_ADDRESS). Without one, a Ray is started here.",
        ),
    ] = None


def start(
    shape: Shape,
    site: Site,
    change: Change,
    name: Name = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="It is fine if the cluster runs already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a cluster; it goes on when this command ends.

    Data that is there already is served again, by the same nodes.
    """
    from dynamo_ray.config import home, load_profile
    from dynamo_ray.founding import check_host

    name = name or os.environ.get("DYNAMO_RAY_CLUSTER") or DEFAULT_NAME
    old = load_profile(name)
    if old and _is_alive(old.ray):
        if not exist_ok:
            raise CommandError(
                Exit.REFUSED,
                f"cluster {name!r} is running already, in the Ray at {old.ray.get('address')}; "
                f"`dynamo-ray stop {name}` ends it",
            )
        _check_same_place(old, site)
        if old.data_dir:
            _plan(name, shape.said(), Path(old.data_dir))  # refuses what the cluster is not
        return _tell_started(name, as_json)
    folder = site.data_dir or home() / "data" / name
    ray_address = site.ray_address or os.environ.get("RAY_ADDRESS")
    render.say(_plan(name, shape.said(machines_at(ray_address) if ray_address else ()), folder))
    if not ray_address:
        check_host(site.host or "127.0.0.1")
    render.say(f"Ray: {f'the one at {ray_address}' if ray_address else 'a new one, here'}")
    if change.dry_run:
        return None
    begin = partial(_begin, name, shape, site, folder, exist_ok)
    if ray_address:
        begin(ray_address)
    else:
        with signals_interrupt():
            _begin_with_ray(name, begin, old)
    return _tell_started(name, as_json)


def _check_same_place(old: Profile, site: Site) -> None:
    """Refuse to say that a cluster is up where it is not. Raises CommandError."""
    for what, said, has in (
        ("--data-dir", site.data_dir and str(site.data_dir.absolute()), old.data_dir),
        ("--ray-address", site.ray_address, old.ray.get("address") or old.ray_address),
    ):
        if said and has and said != has:
            raise CommandError(
                Exit.REFUSED, f"cluster {old.name!r} runs already, with {what} {has}, not {said}"
            )


def _is_alive(begun: dict[str, Any]) -> bool:
    """True if a process of that Ray runs; another one may have its number by now."""
    mark = str(begun.get("temp_dir", "")).encode()
    return bool(mark) and any(mark in _command_of(pid) for pid in begun.get("pids", ()))


def _plan(name: str, said: Said, folder: Path) -> str:
    """What will be started; the directory of an existing cluster says itself what it is.

    Raises SettingsError or DataDirectoryError for what cannot be, before anything is started.
    """
    from dynamo_ray.founding import agreed

    charter, how, since = agreed(folder, name, said), "again, from", "founded with "
    if charter is None:
        charter, how, since = said.charter(name), "new, its data in", ""
    has = charter.settings
    shape = f"{since}{len(charter.members)} nodes, N={has.n} R={has.r} W={has.w}, {has.durability}"
    on = {member.machine for member in charter.members if member.machine}
    where = f" on {', '.join(sorted(on))}" if on else ""
    return f"cluster {name}: {shape}; {how} {folder}{where}"


def _begin(
    name: str, shape: Shape, site: Site, folder: Path, exist_ok: bool, ray_address: str
) -> None:
    import dynamo_ray

    said = shape.said()
    with render.saying("dynamo_ray.start"):  # of nodes that read their data back
        dynamo_ray.start(
            name,
            nodes=said.nodes,
            zones=said.zones,
            coordinators=shape.coordinators,
            data_dir=folder,
            host=site.host,
            exist_ok=exist_ok,
            ray_address=ray_address,
            **said.settings,
        )


def _begin_with_ray(name: str, begin: Callable[[str], None], old: Profile | None) -> None:
    """Start a Ray that outlives this command, and the cluster in it; both or none."""
    from dynamo_ray.config import load_profile, save_profile

    if old and old.ray.get("started_here"):
        end_ray(old.ray)
    render.say("starting Ray …", "dim")
    begun = launch_ray()
    try:
        use_ray(begun)
        render.say("starting the nodes …", "dim")
        begin(begun["address"])
        profile = load_profile(name)
        if profile is None:
            raise CommandError(Exit.FAILED, f"cluster {name!r} left no profile")
        save_profile(replace(profile, ray={**begun, "started_here": True}))
    except BaseException:
        with deaf():
            end_ray(begun)
        raise


def _tell_started(name: str, as_json: bool) -> None:
    from dynamo_ray.config import home, load_profile

    profile = load_profile(name)
    if profile is None:
        raise CommandError(Exit.FAILED, f"cluster {name!r} left no profile")
    path = home() / "clusters" / f"{name}.json"
    if as_json:
        shown = {k: v for k, v in asdict(profile).items() if k not in ("token", "ray")}
        render.show_json({"schema": "dynamo_ray.start/1", **shown, "profile": str(path)})
        return
    render.show(f"{name} is up at {', '.join(profile.addresses[:2])}")
    render.say(f"its token is in {path}, which only you can read")
    render.say(f"next:  dynamo-ray status -c {name}")
    render.say(f"       dynamo-ray put -c {name} hello world")
    render.say(f"       dynamo-ray stop {name}")


def stop(target: Target, change: Change, name: Name = None, as_json: Json = False) -> None:
    """Stop a cluster: exactly what `start` began. Its data stays."""
    from dynamo_ray.config import load_profile, remove_profile

    name = name or name_of(target)
    profile = load_profile(name)
    begun = profile.ray if profile and profile.ray.get("started_here") else {}
    plan = f"stop cluster {name}" + (", and the Ray that was started for it" if begun else "")
    if not agreed(change, plan):
        return
    if begun:
        _stop_with_ray(name, profile, begun)
    else:
        attached_by_ray(name, profile).stop()
    remove_profile(name)
    if as_json:
        render.show_json({"schema": "dynamo_ray.stop/1", "name": name, "ray_ended": bool(begun)})
    else:
        render.say(f"{name} is stopped; its data stays{_at(profile)}")


def _stop_with_ray(name: str, profile: Profile | None, begun: dict[str, Any]) -> None:
    from dynamo_ray.errors import DynamoError

    if _is_alive(begun):
        try:
            attached_by_ray(name, profile).stop()
        except DynamoError as error:
            render.say(f"the cluster does not answer ({error}); ending its Ray", "dim")
    end_ray(begun)


def attached_by_ray(name: str, profile: Profile | None) -> Cluster:
    """The cluster, reached through its Ray: who may do that is an operator. Raises CommandError."""
    begun = profile.ray if profile and profile.ray.get("started_here") else {}
    if begun:
        use_ray(begun)
    address = begun.get("address") or os.environ.get("RAY_ADDRESS")
    address = address or (profile.ray_address if profile else None)
    if not address:
        raise CommandError(
            Exit.CANNOT_CONNECT,
            f"no cluster {name!r} is known here; RAY_ADDRESS names the Ray that it runs in",
        )
    return _attached(name, profile, address)


def _attached(name: str, profile: Profile | None, ray_address: str | None) -> Cluster:
    """The cluster, if it is the one that the profile means."""
    import dynamo_ray

    cluster = dynamo_ray.attach(name, ray_address=ray_address)
    if profile and cluster.charter.cluster_id.hex() != profile.cluster_id:
        raise CommandError(
            Exit.REFUSED,
            f"the cluster {name!r} in the Ray at {ray_address} is another one than the profile's; "
            "nothing was changed",
        )
    return cluster


def _at(profile: Profile | None) -> str:
    return f" in {profile.data_dir}" if profile and profile.data_dir else ""


def agreed(change: Change, plan: str) -> bool:
    """Say the plan and ask; False for --dry-run. Raises CommandError where nobody can be asked."""
    render.say(plan)
    if change.dry_run or change.yes:
        return not change.dry_run
    if not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, "there is no terminal to ask at; --yes does it without")
    if not typer.confirm("Do it?", err=True):
        raise CommandError(Exit.FAILED, "nothing was changed")
    return True


async def kill(
    node: Annotated[
        str, typer.Argument(metavar="NODE", show_default=False, help="The node's name, as n1.")
    ],
    target: Target,
    change: Change,
    as_json: Json = False,
) -> None:
    """Kill a storage node's process (SIGKILL), for a drill. Ray starts it again.

    Only a node on this machine.
    """
    from dynamo_ray.survey import status

    async with connected(target, members_only=True) as connection:
        known = await status(connection.client.session, connection.credentials)
    found = next((one for one in known.nodes if one.name == node), None)
    if found is None:
        names = ", ".join(one.name for one in known.nodes)
        raise CommandError(Exit.USAGE, f"{known.name} has no node {node!r}; it has {names}")
    if not found.pid:
        raise CommandError(Exit.REFUSED, f"{node} is {found.state}: it does not tell its process")
    host = found.address.rpartition(":")[0]
    if not _is_here(host) or not _command_of(found.pid).startswith(NODE_TITLE):
        raise CommandError(
            Exit.REFUSED, f"{node} (process {found.pid} at {host}) does not run on this machine"
        )
    if not agreed(change, f"kill -9 {found.pid}: {node} of cluster {known.name}"):
        return
    os.kill(found.pid, signal.SIGKILL)
    if as_json:
        render.show_json({"schema": "dynamo_ray.kill/1", "node": node, "pid": found.pid})
    else:
        render.say(f"{node} is killed; watch it come back: dynamo-ray status --watch 1")


def _is_here(host: str) -> bool:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as one:
            one.bind((host, 0))
    except OSError:
        return False
    return True


def _command_of(pid: int) -> bytes:
    """The command line of a running process; nothing if there is none."""
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, check=False).stdout


def machines_at(ray_address: str) -> Sequence[Machine]:
    """The machines of that Ray cluster, if their labels name them."""
    from dynamo_ray.cluster import machines

    return machines(ray_address)


def launch_ray() -> dict[str, Any]:
    """Start a Ray on this machine that outlives this command."""
    from dynamo_ray.launching import begin

    return begin()


def use_ray(begun: dict[str, Any]) -> None:
    """Let this command reach the Ray that `launch_ray` began."""
    from dynamo_ray.launching import use

    use(begun)


def end_ray(begun: dict[str, Any]) -> None:
    """End the Ray that `launch_ray` began, and nothing else."""
    from dynamo_ray.launching import end

    end(begun)
