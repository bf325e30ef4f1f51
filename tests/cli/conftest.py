"""The command line as a user runs it, against a real cluster of servers over loopback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from dynamo_ray.config import Profile, save_profile
from tests.server.loopback import Threaded

ROOT = Path(__file__).resolve().parents[2]
IN_A_PROCESS = "import sys; sys.path.insert(0, {root!r}); from cli.main import run; run()"


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said where."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Profiles of a test are its own; nothing of the machine's is seen."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DYNAMO_RAY_HOME", str(folder))
    for name in ("DYNAMO_RAY_CLUSTER", "DYNAMO_RAY_TOKEN", "RAY_ADDRESS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def dr(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`dr("get", "k")` runs `dynamo-ray get k` in this process."""

    def command(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        out, err = capsysbinary.readouterr()
        assert b"Traceback" not in err
        return Ran(int(ended.value.code or 0), out, err.decode())

    return command


@pytest.fixture
def dr_in_a_process() -> Command:
    """The same in a process of its own, piped."""

    def command(*arguments: str, code: str = IN_A_PROCESS, **environment: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-c", code.format(root=str(ROOT)), *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=50,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    return command


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    """A cluster of five nodes that tests share; each uses keys of its own."""
    with Threaded(tmp_path_factory.mktemp("served"), zones=("a", "b")) as threaded:
        yield threaded


@pytest.fixture
def carts(served: Threaded, at_home: Path) -> Threaded:
    """The shared cluster, known here by the name `carts`."""
    return known_as("carts", served)


@pytest.fixture
def fragile(tmp_path: Path, at_home: Path) -> Iterator[Threaded]:
    """A cluster for one test alone, to be broken."""
    with Threaded(tmp_path / "fragile") as threaded:
        yield known_as("fragile", threaded)


def known_as(name: str, threaded: Threaded) -> Threaded:
    cluster = threaded.cluster
    save_profile(Profile(name, cluster.charter.cluster_id.hex(), threaded.address, cluster.token))
    return threaded
