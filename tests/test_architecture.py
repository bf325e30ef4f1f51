"""The plan of the house as a test: who imports whom, what is kept out where, how long things get.

Each rule is a function from one module to complaints. It is tried on every file of the checkout,
and on a made-up source that breaks it, so that a rule that no longer sees anything is noticed. The
tables below are meant to be changed, but on purpose: what is in no table is refused.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The core is pure: nothing here can read a clock, draw a random number, or reach a file.
CORE_IMPORTS = frozenset(
    "__future__ _md5 abc bisect collections dataclasses enum fractions functools hashlib heapq hmac"
    " itertools math operator struct typing zlib".split()
)

# Part of the house -> the parts that it may import. A part is a package or a module at the top of
# dynamo_ray; `dynamo_ray` itself is the __init__ with the public names. Each may import itself.
BASE = {"core", "errors"}
CLIENT = {"batching", "channels", "found", "outcomes", "resolvers", "rows", "session"} | BASE
CLIENT |= {"wire"}
LAYERS: dict[str, set[str]] = {
    "core": set(),
    "errors": {"core"},
    "codecs": BASE,
    "resolvers": BASE,
    "config": BASE,
    "founding": {"storage", "wire"} | BASE,
    "storage": BASE,
    "offline": {"founding", "storage"} | BASE,
    "wire": BASE,
    "sim": {"storage"} | BASE,
    "server": {"wire", "storage"} | BASE,
    "actors": {"server", "wire", "storage", "config"} | BASE,
    "batching": {"wire"} | BASE,
    "found": {"resolvers"} | BASE,
    "outcomes": BASE,
    "rows": BASE,
    "channels": {"wire"} | BASE,
    "session": {"channels", "wire"} | BASE,
    "client": CLIENT,
    "blocking": {"client"} | CLIENT,
    "survey": {"client"} | CLIENT,
    "asking": {"session", "wire"} | BASE,
    "sweep": {"asking", "session", "wire"} | BASE,
    "verifying": {"asking", "session", "wire"} | BASE,
    "repairing": {"asking", "session", "wire"} | BASE,
    "pouring": {"client", "found"} | BASE,
    "backup": {"sweep", "session", "storage", "wire"} | BASE,
    "planning": {"config"} | BASE,
    "changing": {"planning", "actors", "config"} | BASE,
    "restoring": {"backup", "storage", "wire", "actors"} | BASE,
    "connecting": {"client", "blocking", "actors", "server", "config"} | CLIENT,
    "cluster": {
        "changing",
        "client",
        "blocking",
        "connecting",
        "survey",
        "sweep",
        "actors",
        "server",
        "storage",
    }
    | {"config", "founding", "wire", "found", "resolvers"}
    | BASE,
    "tables": {"client", "connecting", "pouring", "sweep", "actors", "codecs", "found"}
    | {"resolvers", "rows", "session"}
    | BASE,
    "launching": {"cluster", "actors", "config"} | BASE,
    "dynamo_ray": {"client", "blocking", "connecting", "cluster", "survey", "config", "codecs"}
    | {"found", "resolvers", "tables"}
    | BASE,
    "cli": {
        "dynamo_ray",
        "launching",
        "client",
        "blocking",
        "connecting",
        "cluster",
        "planning",
        "changing",
        "survey",
        "sweep",
        "verifying",
        "repairing",
        "backup",
        "restoring",
        "pouring",
        "config",
        "founding",
        "offline",
    }
    | {"codecs", "found", "resolvers", "sim"}
    | BASE,
}

# Third-party package -> the parts that may import it. Whatever is not here is not a dependency.
EXTERNAL: dict[str, set[str]] = {
    "ray": {"actors"},
    "pyarrow": {"storage", "codecs", "cli", "tables", "actors"},
    "msgpack": {"wire", "server", "actors", "codecs", "storage"},
    "cloudpickle": {"codecs"},
    "uvloop": {"server", "actors", "blocking", "cluster"},
    "pydantic": {"config"},
    "yaml": {"config"},
    "typer": {"cli"},
    "rich": {"cli"},
}

# One seed must replay a whole run: what the simulator runs has no time and no chance of its own.
UNREPEATABLE = {"asyncio", "concurrent", "multiprocessing", "socket", "threading", "time"}
BANNED_IMPORTS: dict[str, set[str]] = {
    "storage": UNREPEATABLE | {"random", "secrets"},
    "sim": UNREPEATABLE | {"secrets", "uuid"},
}

UNPICKLING = {"pickle", "cloudpickle", "marshal", "shelve", "dill"}
UNPICKLING_CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
EMPTY_WORDS = {"util", "helper", "manager"}
EMPTY_FILE_NAMES = {"data", "info", "process", "misc", "common", *EMPTY_WORDS}

CORE_FILE_LINES, FILE_LINES = 300, 450
CORE_FUNCTION_LINES, FUNCTION_LINES = 40, 60
PARAMETERS = 8

# "path:function" -> why it may break the rules about length and parameters. Better left empty.
TOO_BIG_ON_PURPOSE: dict[str, str] = {
    "dynamo_ray/cluster.py:start": "the public contract: every option of a cluster, by name",
}

TOP_LEVEL = set(
    "pyproject.toml README.md CHANGELOG.md LICENSE Makefile cluster.yaml constraints.txt"
    " docs examples dynamo_ray cli tests benchmarks".split()
)

_STANDARD = sys.stdlib_module_names
Function = ast.FunctionDef | ast.AsyncFunctionDef
Complaints = Iterator[tuple[int, str]]


class Module:
    """One file: where it is, what is written in it, and to which part of the house it belongs."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        parts = Path(path).with_suffix("").parts
        self.package = ".".join(parts[:-1])
        self.part = "dynamo_ray" if parts == ("dynamo_ray", "__init__") else parts[0]
        if parts[0] == "dynamo_ray" and parts[1] != "__init__":
            self.part = parts[1]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source, self.path)

    @cached_property
    def walked(self) -> list[ast.AST]:
        """All nodes; every rule looks at them."""
        return list(ast.walk(self.tree))

    @property
    def is_product(self) -> bool:
        return self.path.startswith(("dynamo_ray/", "cli/"))

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        return (node for node in self.walked if isinstance(node, kinds))

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Absolute dotted names, also of imports inside functions and by importlib."""
        found = []
        for node in self.walked:
            match node:
                case ast.Import(names=names):
                    found += [(node.lineno, alias.name) for alias in names]
                case ast.ImportFrom(module=name, names=names, level=level):
                    base = self._base(level, name)
                    found += [(node.lineno, f"{base}.{alias.name}") for alias in names]
                case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                    if _dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
                        found.append((node.lineno, name))
        return found

    def _base(self, level: int, name: str | None) -> str:
        if level == 0:
            return name or ""
        parents = self.package.split(".")
        return ".".join([*parents[: len(parents) - level + 1], *([name] if name else [])])


def _dotted(node: ast.AST) -> str:
    """`yaml.load` for the expression of that shape, else what is known of its end."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value)}.{attr}"
    return ""


def part_of(name: str) -> str | None:
    """The part of the house that an absolute import reaches; None for everything outside."""
    first, *rest = name.split(".")
    if first in {"cli", "dynamo_ray_cli"}:
        return "cli"
    if first != "dynamo_ray":
        return None
    return rest[0] if rest and rest[0] in LAYERS else "dynamo_ray"


Rule = Callable[[Module], Complaints]

# --- rules -----------------------------------------------------------------------------------


def layers(module: Module) -> Complaints:
    if not module.is_product:
        return
    if module.part not in LAYERS:
        yield 1, f"{module.part} is new: give it a row in LAYERS, on purpose"
        return
    for line, name in module.imports:
        part = part_of(name)
        if part is not None and part != module.part and part not in LAYERS[module.part]:
            yield line, f"{module.part} may not import {part} ({name})"


def third_parties(module: Module) -> Complaints:
    for line, name in module.imports:
        first = name.split(".")[0]
        if not module.is_product or part_of(name) or first in _STANDARD:
            continue
        if module.part not in EXTERNAL.get(first, set()):
            yield line, f"{module.part} may not import {first}"


def core_is_pure(module: Module) -> Complaints:
    if module.part != "core":
        return
    for line, name in module.imports:
        if name.split(".")[0] not in CORE_IMPORTS and part_of(name) != "core":
            yield line, f"core may not import {name.rpartition('.')[0] or name}"
    for node in module.walked:
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield node.lineno, "core never awaits"
            case ast.Global() | ast.Nonlocal():
                yield node.lineno, "core has no global and no nonlocal"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield node.lineno, f"core does no I/O: {name}()"
            case ast.ClassDef(body=body):
                yield from _shared_state(body)


def _shared_state(body: list[ast.stmt]) -> Complaints:
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
        ):
            yield node.lineno, "a mutable class attribute is shared by all instances"


def repeatable(module: Module) -> Complaints:
    for line, name in module.imports:
        if name.split(".")[0] in BANNED_IMPORTS.get(module.part, set()) and module.is_product:
            yield line, f"{module.part} runs in the simulator: no {name.split('.')[0]}"


def nothing_is_unpickled(module: Module) -> Complaints:
    if not module.is_product or module.path == "dynamo_ray/codecs.py":
        return
    for line, name in module.imports:
        if name.split(".")[0] in UNPICKLING:
            yield line, f"{name}: bytes of others are never unpickled"
    for node in module.nodes(ast.Call):
        if _dotted(node.func) in UNPICKLING_CALLS:
            yield node.lineno, f"{_dotted(node.func)}() runs what it reads"


def errors_are_not_swallowed(module: Module) -> Complaints:
    for node in module.walked:
        match node:
            case ast.ExceptHandler(type=None):
                yield node.lineno, "a bare except also catches KeyboardInterrupt"
            case ast.ExceptHandler(type=kind, body=[ast.Pass() | ast.Expr(ast.Constant())]):
                if _catches_all(kind):
                    yield node.lineno, "every error is swallowed: say which"
            case ast.Call(func=func, args=args) if _dotted(func).endswith("suppress"):
                if any(_catches_all(kind) for kind in args):
                    yield node.lineno, "every error is suppressed: say which"


def _catches_all(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_dotted(one) in {"Exception", "BaseException"} for one in kinds)


def says_what_it_is_for(module: Module) -> Complaints:
    if not (ast.get_docstring(module.tree) or "").strip():
        yield 1, "a module opens with a docstring that says what it is for"


def names_say_something(module: Module) -> Complaints:
    word = Path(module.path).stem.strip("_")
    if word in EMPTY_FILE_NAMES or word.removesuffix("s") in EMPTY_FILE_NAMES:
        yield 1, f"a file named {word} is about nothing: name it after its concept"
    for node in module.nodes(ast.ClassDef):
        for part in re.findall(r"[A-Z][a-z]+", node.name):
            if part.lower().removesuffix("s") in EMPTY_WORDS:
                yield node.lineno, f"class {node.name}: {part} says nothing"


def nothing_is_left_for_later(module: Module) -> Complaints:
    for number, line in enumerate(module.source.splitlines(), 1):
        if re.search(r"\b(TO[D]O|FIX[M]E|X[X]X)\b", line):
            yield number, "do it now, or write it where work is planned"


def files_stay_short(module: Module) -> Complaints:
    limit = CORE_FILE_LINES if module.part == "core" else FILE_LINES
    lines = len(module.source.splitlines())
    if module.is_product and lines > limit:
        yield limit + 1, f"{lines} lines; the limit is {limit}: there are two concepts in it"


def functions_stay_short(module: Module) -> Complaints:
    limit = CORE_FUNCTION_LINES if module.part == "core" else FUNCTION_LINES
    for node in module.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        if not module.is_product or f"{module.path}:{node.name}" in TOO_BIG_ON_PURPOSE:
            continue
        if _length(node) > limit:
            yield node.lineno, f"{node.name} has {_length(node)} lines; the limit is {limit}"
        if _parameters(node) > PARAMETERS:
            yield node.lineno, f"{node.name} has {_parameters(node)} parameters, not {PARAMETERS}"


def _length(node: Function) -> int:
    """Lines without decorators and docstring: prose is not what makes a function long."""
    prose = node.body[0] if ast.get_docstring(node) else None
    return node.end_lineno - node.lineno + 1 - (prose.end_lineno - prose.lineno + 1 if prose else 0)


def _parameters(node: Function) -> int:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    more = sum(one is not None for one in (node.args.vararg, node.args.kwarg))
    return len(names) + more - (names[:1] in (["self"], ["cls"]))


RULES: list[Rule] = [
    layers,
    third_parties,
    core_is_pure,
    repeatable,
    nothing_is_unpickled,
    errors_are_not_swallowed,
    says_what_it_is_for,
    names_say_something,
    nothing_is_left_for_later,
    files_stay_short,
    functions_stay_short,
]


# --- the checkout ----------------------------------------------------------------------------


@cache
def _modules() -> list[Module]:
    """Every Python file; folders that are not there yet hold none."""
    folders = ("dynamo_ray", "cli", "tests", "benchmarks", "examples")
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return [Module(str(file.relative_to(ROOT)), file.read_text("utf-8")) for file in files]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    wrong = [f"{m.path}:{line}: {text}" for m in _modules() for line, text in rule(m)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_walk_sees_the_house() -> None:
    assert {"dynamo_ray/__init__.py", "cli/__init__.py", "tests/test_architecture.py"} <= {
        module.path for module in _modules()
    }


def test_the_tables_name_nothing_unknown() -> None:
    assert set().union(*LAYERS.values(), *EXTERNAL.values(), BANNED_IMPORTS) <= set(LAYERS)
    functions = {
        f"{module.path}:{node.name}"
        for module in _modules()
        for node in module.nodes(ast.FunctionDef, ast.AsyncFunctionDef)
    }
    assert set(TOO_BIG_ON_PURPOSE) <= functions, "an exception outlived what it was made for"


def test_imports_run_downwards_only() -> None:
    """The table itself has no circle, and what the plan forbids is not even reached indirectly."""

    def below(part: str, path: tuple[str, ...] = ()) -> set[str]:
        assert part not in path, f"a circle: {' -> '.join((*path, part))}"
        return LAYERS[part].union(*(below(one, (*path, part)) for one in LAYERS[part]))

    reach = {part: below(part) for part in LAYERS}
    assert not any("cli" in parts for parts in reach.values())
    assert reach["core"] == set()
    assert not reach["sim"] & {"actors", "server", "wire"}
    assert not reach["client"] & {"actors", "server", "storage", "sim"}
    assert not reach["server"] & {"actors", "client", "cluster", "sim"}
    assert EXTERNAL["ray"] == {"actors"}


def test_the_top_level_holds_what_the_plan_lists() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: what else lies here is not ours to judge")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    top = {name.split("/")[0] for name in listed if name and not name.startswith(".")}
    assert top <= TOP_LEVEL


# --- the rules themselves: a source that breaks each, and one that does not -------------------

DOC = '"""What it is for."""\n'

CORE, SIM, CLI = "dynamo_ray/core/ring.py", "dynamo_ray/sim/world.py", "cli/main.py"

# (rule, path, source): the path decides to which part of the house the made-up module belongs.
BREAKS = [
    (layers, CORE, "from dynamo_ray.storage import log"),
    (layers, CORE, "from dynamo_ray.errors import DynamoError"),
    (layers, CORE, "from .. import wire"),
    (layers, CORE, "from ..wire.frames import pack"),
    (layers, SIM, "def f():\n    from dynamo_ray.server import node"),
    (layers, SIM, "import dynamo_ray.actors"),
    (layers, SIM, "importlib.import_module('dynamo_ray.wire')"),
    (layers, "dynamo_ray/client.py", "if TYPE_CHECKING:\n    import dynamo_ray.cluster"),
    (layers, "dynamo_ray/wire/frames.py", "from dynamo_ray import __version__"),
    (layers, "dynamo_ray/cluster.py", "import dynamo_ray_cli.main"),
    (layers, "dynamo_ray/cluster.py", "from cli import main"),
    (layers, "dynamo_ray/gossip.py", ""),
    (layers, "dynamo_ray/gossip/bus.py", ""),
    (third_parties, "dynamo_ray/cluster.py", "import ray"),
    (third_parties, CLI, "def f():\n    from ray.exceptions import RayError"),
    (third_parties, "dynamo_ray/client.py", "import numpy as np"),
    (core_is_pure, CORE, "import time"),
    (core_is_pure, CORE, "from random import Random"),
    (core_is_pure, CORE, "async def f(): ..."),
    (core_is_pure, CORE, "n = 0\ndef f():\n    global n"),
    (core_is_pure, CORE, "def f():\n    print(1)"),
    (core_is_pure, CORE, "class Ring:\n    nodes: list[int] = []"),
    (repeatable, SIM, "from time import monotonic"),
    (repeatable, "dynamo_ray/storage/log.py", "import random"),
    (nothing_is_unpickled, "dynamo_ray/wire/frames.py", "import pickle"),
    (nothing_is_unpickled, "dynamo_ray/config.py", "import yaml\nyaml.load('1')"),
    (nothing_is_unpickled, CLI, "eval('1')"),
    (errors_are_not_swallowed, "tests/test_x.py", "try:\n    f()\nexcept:\n    raise"),
    (errors_are_not_swallowed, CLI, "try:\n    f()\nexcept (Exception, OSError):\n    pass"),
    (errors_are_not_swallowed, CLI, "with contextlib.suppress(BaseException):\n    f()"),
    (names_say_something, "dynamo_ray/core/utils.py", ""),
    (names_say_something, "cli/_helper.py", ""),
    (names_say_something, CORE, "class RingManager: ..."),
    (nothing_is_left_for_later, "tests/test_x.py", "n = 1  # TO" + "DO: two"),
    (files_stay_short, CORE, "\n" * CORE_FILE_LINES),
    (files_stay_short, CLI, "\n" * FILE_LINES),
    (functions_stay_short, CORE, "def f():\n" + "    f()\n" * CORE_FUNCTION_LINES),
    (functions_stay_short, CLI, "async def f():\n" + "    f()\n" * FUNCTION_LINES),
    (functions_stay_short, CLI, "def f(a, b, /, c, d, *e, g, h, i, **j): ..."),
]

KEEPS = [
    (layers, CORE, "from . import claim\nfrom dynamo_ray.core.claim import lay_out"),
    (layers, "dynamo_ray/actors/node.py", "from dynamo_ray import server\nfrom .. import wire"),
    (layers, CLI, "import dynamo_ray\nfrom . import render\nfrom dynamo_ray.sim import run"),
    (layers, "tests/test_x.py", "from dynamo_ray.core import ring\nfrom cli import main"),
    (third_parties, "dynamo_ray/actors/node.py", "import ray\nimport asyncio"),
    (core_is_pure, CORE, "from collections.abc import Sequence\nx.open(1)"),
    (repeatable, "dynamo_ray/server/node.py", "import time"),
    (nothing_is_unpickled, "dynamo_ray/codecs.py", "import cloudpickle"),
    (nothing_is_unpickled, "dynamo_ray/config.py", "import yaml\nyaml.safe_load('1')"),
    (errors_are_not_swallowed, CLI, "try:\n    f()\nexcept OSError:\n    pass"),
    (errors_are_not_swallowed, CLI, "try:\n    f()\nexcept Exception as e:\n    report(e)"),
    (names_say_something, CORE, "class Database: ..."),
    (functions_stay_short, CLI, "class A:\n    def f(self, a, b, c, d, e, g, h, i): ..."),
    (functions_stay_short, CLI, f'def f():\n    """{"prose" + chr(10) * FUNCTION_LINES}"""'),
]


def _complaints(rule: Rule, path: str, source: str) -> list[tuple[int, str]]:
    return list(rule(Module(path, DOC + source)))


@pytest.mark.parametrize(("rule", "path", "source"), BREAKS)
def test_what_breaks_a_rule_is_seen(rule: Rule, path: str, source: str) -> None:
    assert _complaints(rule, path, source)


@pytest.mark.parametrize(("rule", "path", "source"), KEEPS)
def test_what_keeps_a_rule_passes(rule: Rule, path: str, source: str) -> None:
    assert _complaints(rule, path, source) == []


def test_a_module_without_a_docstring_is_seen() -> None:
    assert list(says_what_it_is_for(Module(CLI, "n = 1\n")))
    assert list(says_what_it_is_for(Module(CLI, "")))


def test_every_rule_is_tried() -> None:
    assert {rule for rule, _, _ in BREAKS} | {says_what_it_is_for} == set(RULES)
