"""What the documentation says is so: names, defaults, commands, links, tests and snippets.

A Python block after the comment `<!-- run -->` runs as it is printed, those of a page one after
another in one interpreter; where a line ends in `# → X`, the value of its expression shows as X.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import dynamo_ray
from cli.main import _application
from dynamo_ray.core.machines import MACHINE, ZONE
from dynamo_ray.core.messages import Code
from dynamo_ray.core.settings import Settings
from dynamo_ray.sim.checkers import CHECKERS
from tests.sim.test_guards import GUARDS

ROOT = Path(__file__).resolve().parents[1]
DATA = "/var/lib/dynamo_ray"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md")
}
README, GUIDE = PAGES["README.md"], PAGES["docs/guide.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = re.compile(r"^<!-- run -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROMISED = re.compile(r"^(\s*)(\S.*?)\s+# → (.+)$")


def between(page: str, name: str) -> str:
    """What stands between a page's markers of that name."""
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", page, re.DOTALL)
    assert found, f"no markers {name}:begin and {name}:end"
    return found[1]


def rows(table: str) -> Iterator[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


# ---- names and numbers


@pytest.mark.parametrize("name", dynamo_ray.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", GUIDE + README)


@pytest.mark.parametrize("kind", [dynamo_ray.Client, dynamo_ray.Cluster, dynamo_ray.Found])
def test_every_public_member_is_documented(kind: type) -> None:
    names = {name for name in vars(kind) if not name.startswith("_")} - {"ask"}
    assert {name for name in names if not re.search(rf"\b{name}\b", GUIDE + README)} == set()


def test_every_field_of_a_status_is_explained() -> None:
    operating = PAGES["docs/operating.md"]
    for field in fields(dynamo_ray.NodeStatus):
        assert re.search(rf"[`.\]]{field.name}`", operating) or field.name == "name", field.name


def test_the_table_of_settings_is_the_code() -> None:
    settings = Settings()
    plain = {f.name: getattr(settings, f.name) for f in fields(settings)}
    groups = {name: plain.pop(name) for name in ("limits", "times")}
    for group, of in groups.items():
        plain |= {f"{group}.{f.name}": getattr(of, f.name) for f in fields(of)}
    written = {row[0].strip("`"): row[1] for row in rows(between(README, "settings"))}
    assert written == {
        name: f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in plain.items()
    }


def test_the_table_of_guards_is_the_tests(rewrite: bool) -> None:
    """`pytest tests/test_docs.py --rewrite` writes the table anew."""
    cells = [
        [guard.rule, guard.name, spoken(guard.tape.__name__), " ".join(guard.caught_by)]
        for guard in GUARDS
    ]
    page = PAGES["docs/faults.md"]
    table = between(page, "guards")
    if rewrite:
        head = table.splitlines()[:2]
        lines = [*head, *(f"| {' | '.join(row)} |" for row in cells), ""]
        (ROOT / "docs/faults.md").write_text(page.replace(table, "\n".join(lines)), "utf-8")
        return
    assert list(rows(table)) == cells


def test_the_table_of_drills_is_of_those_that_are_there() -> None:
    """`pytest tests/chaos --rewrite` writes it anew. No drill may have lost a write."""
    chaos = ROOT / "tests/chaos"
    drills = "".join(path.read_text("utf-8") for path in sorted(chaos.glob("test_*.py")))
    table = list(rows(between(PAGES["docs/faults.md"], "chaos")))
    assert len(table) == len(re.findall(r"\bkeep\(", drills))
    for fault, *_, lost in table:
        assert f'"{fault}"' in drills, fault
        assert lost == "0"


def spoken(name: str) -> str:
    """A function's name as words."""
    return "no fault" if name == "nothing" else name.replace("_", " ")


def test_every_checker_of_the_simulator_is_explained() -> None:
    page = PAGES["docs/simulator.md"]
    written = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert written == [checker.__name__ for checker in CHECKERS]


def test_every_kind_of_message_is_in_the_table() -> None:
    from dynamo_ray.core import encoding, kinds

    written = {
        int(number)
        for row in rows(PAGES["docs/protocol.md"].split("## Messages")[1].split("\n## ")[0])
        for number in row[0].split(",")
    }
    numbers = {value for value in vars(kinds).values() if isinstance(value, int)}
    assert written == numbers | set(encoding._BY_KIND)
    assert Code.UNAVAILABLE == 1 and Code.UNKNOWN == 2 and Code.NOT_READY == 10


# ---- commands


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
    for name, one in (inner or {}).items():
        yield from commands(one, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(_application())))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_documented(path: tuple[str, ...]) -> None:
    assert f"### dynamo-ray {' '.join(path)}\n" in PAGES["docs/cli.md"]


def test_every_command_that_a_page_shows_is_there() -> None:
    """With its options, so that whoever copies a line can run it."""
    shown = [
        (page, line)
        for page, text in PAGES.items()
        for line in re.findall(r"(?:^\$ |`)dynamo-ray ([^`\n]+)", text, re.MULTILINE)
    ]
    assert len(shown) > 40
    for page, line in shown:
        words = re.sub(r"'[^']*'|\"[^\"]*\"", "VALUE", line).split(" #")[0].split()
        path = next((p for n in (2, 1) if (p := tuple(words[:n])) in COMMANDS), None)
        assert path, f"{page}: no command in `dynamo-ray {line}`"
        known = {opt for one in COMMANDS[path].params for opt in one.opts} | {"--help", "-h"}
        given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{page}: dynamo-ray {line}"


# ---- links and tests


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), f"{page} links to {target}"


def anchors(text: str) -> set[str]:
    """The names that headings get."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_tests_and_files_that_are_named_are_there(page: str) -> None:
    text = PAGES[page]
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), f"{page} names {path}"
        assert not name or f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{page}: {name}"
    for path in re.findall(r"`((?:core|storage|wire|server|actors|sim)/[\w/]+\.py)", text):
        assert (ROOT / "dynamo_ray" / path).exists(), f"{page} names {path}"


def test_each_promise_and_each_invariant_names_its_test() -> None:
    promises = README.split("## Promises")[1].split("### ")[0]
    invariants = PAGES["docs/architecture.md"].split("## Invariants")[1].split("\n## ")[0]
    for table, least in ((promises, 5), (invariants, 20)):
        held = [row[-1] for row in rows(table)]
        assert len(held) >= least
        assert all("tests/" in cell for cell in held)


def test_the_lead_in_of_every_page_is_a_title() -> None:
    for page, text in PAGES.items():
        assert text.startswith("# "), page
        assert text.endswith("\n") and not text.endswith("\n\n"), page


def test_the_changelog_has_what_is_not_released() -> None:
    unreleased = PAGES["CHANGELOG.md"].split("## Unreleased")[1].split("\n## ")[0]
    assert re.search(r"^- .+", unreleased, re.MULTILINE)


# ---- snippets


def program(page: str) -> str:
    """The blocks of a page that run, as one program that compares what was promised."""
    lines = [
        "import sys",
        "def promised(value, text, where):",
        "    assert repr(value) == text, f'{where}: {value!r}, not {text}'",
    ]
    for block in RUN.findall(PAGES[page]):
        lines += [checked(line, page) for line in block.splitlines()]
    return "\n".join(lines) + "\n"


def checked(line: str, page: str) -> str:
    found = PROMISED.match(line)
    if found is None:
        return line
    indent, expression, promise = found.groups()
    shown = repr(ast.literal_eval(promise)) if not promise.startswith("Found") else promise
    return f"{indent}promised(({expression}), {shown!r}, {page + ': ' + expression!r})"


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_are_python(page: str) -> None:
    for language, block in FENCE.findall(PAGES[page]):
        if language == "python":
            compile(block, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", ["docs/simulator.md"])
def test_snippets_that_need_no_cluster_run_as_printed(page: str) -> None:
    exec(compile(program(page), page, "exec"), {})


@pytest.mark.ray
@pytest.mark.timeout(150)
def test_the_first_snippets_run_as_printed_where_there_is_no_ray(tmp_path: Path) -> None:
    """In an interpreter and with a home of its own, on a Ray that begins and ends with it."""
    source = tmp_path / "snippets.py"
    source.write_text(program("README.md"), "utf-8")
    home = tmp_path / "home"
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, str(source)],
        env={**known, "PYTHONPATH": str(ROOT), "DYNAMO_RAY_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_the_snippets_of_the_guide_run_as_printed(
    ray_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a home of their own, in the Ray that is here."""
    page = "docs/guide.md"
    monkeypatch.setenv("DYNAMO_RAY_HOME", str(tmp_path))
    known: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program(page), page, "exec"), known)
    except BaseException:
        known["cluster"].stop()  # or it would run on beside all other tests
        raise


def test_a_promise_that_is_not_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for promise, kept in (("2", True), ("3", False)):
        block = f"<!-- run -->\n```python\n1 + 1    # → {promise}\n```\n"
        monkeypatch.setitem(PAGES, "made-up.md", block)
        try:
            exec(program("made-up.md"), {})
        except AssertionError:
            assert not kept
        else:
            assert kept


# ---- cluster.yaml


def test_the_cluster_launcher_takes_the_cluster_file() -> None:
    """By Ray's own reading of it: schema, defaults, and what a local provider asks for."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    given = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    prepared = util.prepare_config(given)
    util.validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    machines = len(given["provider"]["worker_ips"])
    assert node_type["min_workers"] == node_type["max_workers"] == machines >= 3


def test_the_cluster_file_has_what_a_store_needs() -> None:
    text = (ROOT / "cluster.yaml").read_text("utf-8")
    given = yaml.safe_load(text)
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and given["docker"]["image"].startswith(f"rayproject/ray:{pinned[1]}-py")
    head, workers = given["head_start_ray_commands"][-1], given["worker_start_ray_commands"][-1]
    for command in (head, workers):
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_gcs_rpc_server_reconnect_timeout_s=86400" in command
        assert "RAY_health_check_timeout_ms=600000" in command
        assert "RAY_grpc_client_keepalive_timeout_ms=3600000" in command, "or a cut is too long"
    assert "RAY_gcs_storage=rocksdb" in head and "--num-cpus=0" in head and "--labels" not in head
    assert "RAY_enable_autoscaler_v2=0" in head, "or the last machine is left out"
    (labels,) = re.findall(r'--labels="(.*)"', workers)
    assert [one.split("=")[0] for one in labels.split(",")] == [MACHINE, ZONE]
    assert f"-v {DATA}:{DATA}" in given["docker"]["run_options"]
    assert labels.count(f"$(cat {DATA}/") == 2, "the name is with the data"
    assert settings_of(head) >= settings_of(workers)
    assert "NOT TRIED" in text


def settings_of(command: str) -> set[str]:
    """The settings of Ray's that stand before a command."""
    return set(re.findall(r"\bRAY_\w+=\S+", command))


# ---- docs/kuberay.yaml

KUBERAY = list(yaml.safe_load_all((ROOT / "docs/kuberay.yaml").read_text("utf-8")))
RAY_CLUSTER = KUBERAY[-1]["spec"]
# What Kubernetes takes as a label's name (its IsQualifiedName), which KubeRay holds labels to.
LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?")


def test_the_manifest_is_of_kinds_and_fields_that_kuberay_has() -> None:
    """By hand from KubeRay 1.7's RayCluster, whose whole schema (900 KB) it was checked against."""
    kinds = ["Secret", *["PersistentVolumeClaim"] * 4, "RayCluster"]
    assert [one["kind"] for one in KUBERAY] == kinds
    assert RAY_CLUSTER.keys() <= set(
        "rayVersion authOptions gcsFaultToleranceOptions enableInTreeAutoscaling upgradeStrategy"
        " headGroupSpec workerGroupSpecs".split()
    )
    assert RAY_CLUSTER["headGroupSpec"].keys() <= {"rayStartParams", "template", "labels"}
    for group in RAY_CLUSTER["workerGroupSpecs"]:
        assert group.keys() == set(
            "groupName replicas minReplicas maxReplicas labels rayStartParams template".split()
        )
        assert all(LABEL.fullmatch(name) for name in group["labels"])
    for spec in pods():
        assert spec["containers"][0].keys() <= set(
            "name image env resources ports volumeMounts".split()
        )


def pods() -> Iterator[Any]:
    """The head's pod and then the workers'."""
    for group in (RAY_CLUSTER["headGroupSpec"], *RAY_CLUSTER["workerGroupSpecs"]):
        yield group["template"]["spec"]


def test_the_manifest_has_what_a_store_needs() -> None:
    head = RAY_CLUSTER["headGroupSpec"]
    assert RAY_CLUSTER["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    assert RAY_CLUSTER["authOptions"]["mode"] == "token"
    assert RAY_CLUSTER["enableInTreeAutoscaling"] is False
    assert RAY_CLUSTER["upgradeStrategy"]["type"] == "None"
    assert head["rayStartParams"]["num-cpus"] == "0" and "labels" not in head
    groups = RAY_CLUSTER["workerGroupSpecs"]
    assert all(g["replicas"] == g["minReplicas"] == g["maxReplicas"] == 1 for g in groups)
    assert len({group["labels"][MACHINE] for group in groups}) == len(groups) >= 3
    assert len({group["labels"][ZONE] for group in groups}) == len(groups)
    claims = [spec["volumes"][0]["persistentVolumeClaim"]["claimName"] for spec in pods()]
    made = [one["metadata"]["name"] for one in KUBERAY if one["kind"] == "PersistentVolumeClaim"]
    assert sorted(claims) == sorted(made), "a disk of its own for each"
    for spec in pods():
        assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == DATA


def test_the_manifest_and_the_cluster_file_have_the_same_settings() -> None:
    given = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    asked = settings_of(given["worker_start_ray_commands"][-1]) - {"RAY_AUTH_MODE=token"}
    for spec in pods():
        env = {f"{one['name']}={one['value']}" for one in spec["containers"][0]["env"]}
        assert env >= asked
