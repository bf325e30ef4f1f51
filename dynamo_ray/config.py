"""Where this user's clusters are: profiles, so that the command line needs no Ray to reach them.

A profile is one JSON file per cluster, readable by its owner only because it holds the client
token: `~/.dynamo_ray/clusters/NAME.json` (the environment variable DYNAMO_RAY_HOME moves
`~/.dynamo_ray`).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dynamo_ray.errors import BadRequestError

NAME_PATTERN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")


@dataclass(frozen=True, slots=True)
class Profile:
    """How to reach a cluster, and what `start` began for it (so that `stop` ends exactly that)."""

    name: str
    cluster_id: str
    addresses: list[str]
    token: str = field(repr=False)
    data_dir: str = ""
    ray_address: str = ""
    ray: dict[str, Any] = field(default_factory=dict)


def home() -> Path:
    """The folder of profiles and default data directories."""
    return Path(os.environ.get("DYNAMO_RAY_HOME") or Path.home() / ".dynamo_ray")


def check_name(name: str) -> str:
    """A cluster's or node's name that is also a safe file name. Raises BadRequestError."""
    if not NAME_PATTERN.match(name):
        raise BadRequestError(
            f"{name!r} cannot be a name; use letters, digits, '-', '_' and '.', at most 63"
        )
    return name


def _path(name: str) -> Path:
    return home() / "clusters" / f"{check_name(name)}.json"


def load_profile(name: str) -> Profile | None:
    """The profile of that name, or None. Raises BadRequestError if its file cannot be read."""
    path = _path(name)
    try:
        return Profile(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise BadRequestError(f"the profile {path} cannot be read ({error}); remove it") from error


def save_profile(profile: Profile) -> Path:
    """Write the profile aside and move it into place, readable by its owner only."""
    path = _path(profile.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(profile), file, indent=1)
    aside.replace(path)
    return path


def remove_profile(name: str) -> None:
    """Forget the profile; nothing happens if there is none."""
    _path(name).unlink(missing_ok=True)


def list_profiles() -> list[str]:
    """The names of the profiles, sorted."""
    folder = home() / "clusters"
    return sorted(path.stem for path in folder.glob("*.json") if NAME_PATTERN.match(path.stem))
