"""The specs in `formal/`: what can be said of their text, and that their runner finds faults.

That every spec holds, and fails without each of its guards, is checked by `make specs`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository import PACKAGE, ROOT, text_of

FORMAL = ROOT / "formal"
SPECS = sorted(FORMAL.glob("*.tla"))
MAPPING = re.compile(r"^\\\* @(code|world|design) (\w+) (.+)$", re.M)
GUARD = re.compile(r"^\s*(?:/\\|\\/) .*\S\s+\\\* @guard ([\w-]+) -> (\w+)$", re.M)
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(
    NODE is None or not (FORMAL / "node_modules" / "tla-checker").is_dir(),
    reason="Node.js and the checker of the specs are not installed: run make specs",
)


def actions_of(text: str) -> set[str]:
    """Return the actions that `Next` chooses among."""
    (body,) = re.findall(r"^Next ==\n(.*?)\n\n", text, re.M | re.S)
    return set(re.findall(r"\b([A-Z]\w*)\(", body)) | set(re.findall(r"\\/ (\w+)$", body, re.M))


def invariants_of(cfg: str) -> list[str]:
    """Return the invariants of a configuration, in order."""
    found = re.search(r"^INVARIANTS\n(.*?)^CHECK_DEADLOCK FALSE$", cfg, re.M | re.S)
    return found[1].split() if found else []


def functions_of(path: Path) -> set[str]:
    """Return the names of the functions of a source: methods as `Class.method`."""
    text = text_of(path)
    if path.suffix == ".sql":
        return set(re.findall(r"^CREATE FUNCTION interlock\.(\w+)\(", text, re.M))
    if path.suffix == ".lua":
        return set(re.findall(r"^local function (\w+)\(", text, re.M))
    return set(_defined(ast.parse(text)))


def _defined(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from _defined(node, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name


def header_problems(text: str) -> list[str]:
    """Return what is wrong with the mapping of a spec's actions to the code."""
    problems = []
    actions, mapped = actions_of(text), {name for _, name, _ in MAPPING.findall(text)}
    problems += [f"{name} is mapped to nothing" for name in sorted(actions - mapped)]
    problems += [f"{name} is not an action" for name in sorted(mapped - actions)]
    for kind, action, targets in MAPPING.findall(text):
        for target in targets.split() if kind == "code" else ():
            file, _, function = target.partition(":")
            path = PACKAGE / file
            if not path.is_file():
                problems.append(f"{action}: there is no file {file}")
            elif function and function not in functions_of(path):
                problems.append(f"{action}: there is no {function} in {file}")
    return problems


def lint_problems(kind: str, text: str) -> list[str]:
    """Return what in a spec or a configuration is outside the subset of `formal/lint.json`."""
    problems = []
    lines = [re.sub(r" *\\\*.*$", "", line) for line in text.splitlines()]
    for rule in json.loads(text_of(FORMAL / "lint.json")):
        pattern = re.compile(rule.get("forbid") or rule["once"])
        hits = [line for line in lines if pattern.search(line)] if rule["in"] == kind else []
        problems += [f"{line}: {rule['why']}" for line in hits[1 if "once" in rule else 0 :]]
    return problems


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
class TestEverySpec:
    def test_says_what_it_promises_and_which_code_each_action_stands_for(self, spec: Path) -> None:
        text = text_of(spec)
        assert re.match(rf"-+ MODULE {spec.stem} -+\n\\\* Promise: \w", text)
        assert header_problems(text) == []

    def test_stays_inside_the_subset(self, spec: Path) -> None:
        assert lint_problems("tla", text_of(spec)) == []
        for suffix in (".cfg", ".deep.cfg"):
            assert lint_problems("cfg", text_of(spec.with_suffix(suffix))) == []
        assert max(len(line) for line in text_of(spec).splitlines()) <= 110

    def test_pins_its_states_and_names_an_invariant_for_each_guard(self, spec: Path) -> None:
        text = text_of(spec)
        guards = GUARD.findall(text)
        assert len(guards) == text.count("@guard") > 0
        assert len({name for name, _ in guards}) == len(guards)
        small, deep = (text_of(spec.with_suffix(suffix)) for suffix in (".cfg", ".deep.cfg"))
        assert invariants_of(small) == invariants_of(deep)
        assert {invariant for _, invariant in guards} <= set(invariants_of(small))
        for invariant in invariants_of(small):
            assert re.search(rf"^{invariant} +==", text, re.M)
        pins = [int(re.findall(r"^\\\* @states (\d+)$", cfg, re.M)[0]) for cfg in (small, deep)]
        assert 1 < pins[0] < pins[1]

    def test_is_in_the_manual_with_its_states_and_mutants(self, spec: Path) -> None:
        page = text_of(ROOT / "docs" / "explanation" / "specs.md")
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{spec.stem}` |")]
        _, _, _, invariants, states, deep, mutants, _ = (cell.strip() for cell in row.split("|"))
        small = text_of(spec.with_suffix(".cfg"))
        assert re.findall(r"`(\w+)`", invariants) == invariants_of(small)[1:]
        for shown, suffix in ((states, ".cfg"), (deep, ".deep.cfg")):
            pinned = int(re.findall(r"@states (\d+)", text_of(spec.with_suffix(suffix)))[0])
            assert shown == f"{pinned:,}"
        named = [(name, invariant) for name, invariant in GUARD.findall(text_of(spec))]
        assert int(mutants) == len(named)


def test_there_is_a_spec_for_each_promise() -> None:
    assert [spec.stem for spec in SPECS] == [
        "ConsumerGroup",
        "Coordinator",
        "DurableLog",
        "DurableRun",
        "Erasure",
        "GuardedCommit",
        "Leases",
        "LogOrder",
        "OutsideWriters",
        "Transactions",
        "Turns",
        "Waits",
    ]


def test_the_checker_is_pinned_and_its_lock_names_no_host() -> None:
    package = json.loads(text_of(FORMAL / "package.json"))
    lock = json.loads(text_of(FORMAL / "package-lock.json"))
    locked = lock["packages"]["node_modules/tla-checker"]
    assert package["dependencies"] == {"tla-checker": locked["version"]} == {"tla-checker": "0.9.0"}
    assert locked["integrity"].startswith("sha512-")
    assert "resolved" not in locked


SMALL = r"""---- MODULE Small ----
\* @code Up core/write.py:put
EXTENDS Naturals

VARIABLES x, y

vars == <<x, y>>

Init == x = 0 /\ y = 0

Up ==
  /\ x < 3
  /\ y = 0     \* @guard still -> Still
  /\ x' = x + 1
  /\ UNCHANGED <<y>>

Stop ==
  /\ y < 1
  /\ x > 1     \* @guard late -> Late
  /\ y' = 1 + x
  /\ UNCHANGED <<x>>

Next ==
  \/ Up
  \/ Stop

Spec == Init /\ [][Next]_vars

Late == y = 0 \/ y > 2
Still == y = 0 \/ y = x + 1
====
"""
CFG = "\\* @states 6\nSPECIFICATION Spec\nINVARIANTS\n  Late\n  Still\nCHECK_DEADLOCK FALSE\n"


@pytest.mark.parametrize(
    ("was", "becomes", "problem"),
    [
        ("@code Up", "@code Upp", "Upp is not an action"),
        ("write.py:put", "write.py:putt", "Up: there is no putt in core/write.py"),
        ("core/write.py", "core/nowhere.py", "Up: there is no file core/nowhere.py"),
        ("@code Up core/write.py:put", "", "Up is mapped to nothing"),
    ],
)
def test_a_header_that_is_wrong_is_found(was: str, becomes: str, problem: str) -> None:
    text = SMALL.replace("@code Up", "@world Stop it stops\n\\* @code Up")
    assert header_problems(text) == []
    assert problem in header_problems(text.replace(was, becomes))


OUTSIDE = [
    ("x > 1 ", "x > 1 => y = 0 "),
    ("x > 1 ", "x \\div 2 > 0 "),
    ("x > 1 ", "x \\in Nat "),
    ("UNCHANGED <<x>>", "UNCHANGED x"),
    ("VARIABLES x, y", "VARIABLES x\nVARIABLES y"),
    ("Spec == Init", "Spec == WF_vars(Next) /\\ Init"),
    ("EXTENDS Naturals", "EXTENDS Naturals, TLC"),
]


@pytest.mark.parametrize(("was", "becomes"), OUTSIDE)
def test_what_is_outside_the_subset_is_found(was: str, becomes: str) -> None:
    assert lint_problems("tla", SMALL) == []
    assert len(lint_problems("tla", SMALL.replace(was, becomes))) == 1


def run(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the runner on the specs of a folder."""
    command = [NODE or "node", str(FORMAL / "check.mjs"), "--workers", "1", "--dir", str(folder)]
    return subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TLA2TOOLS_JAR": "", **environment},
    )


def written(folder: Path, tla: str = SMALL, cfg: str = CFG) -> Path:
    """Write a spec to a folder, and return the folder."""
    (folder / "Small.tla").write_text(tla)
    (folder / "Small.cfg").write_text(cfg)
    return folder


@needs_node
@pytest.mark.slow
class TestTheRunner:
    def test_counts_specs_and_mutants(self, tmp_path: Path) -> None:
        ran = run(written(tmp_path))
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.splitlines()[-1] == "1 specs hold, 2 mutants fail as they must"
        assert "Small without late: Late fails after 1 steps" in ran.stdout

    def test_prints_one_object_where_asked(self, tmp_path: Path) -> None:
        ran = run(written(tmp_path), "Small", "--json")
        (found,) = json.loads(ran.stdout)["specs"]
        assert json.loads(ran.stdout)["ok"] is True
        assert (found["name"], found["states"], found["pinned"]) == ("Small", 6, 6)
        assert found["mutants"] == [
            {"guard": "late", "invariant": "Late", "steps": 1, "fails": True},
            {"guard": "still", "invariant": "Still", "steps": 4, "fails": True},
        ]

    @pytest.mark.parametrize(
        ("was", "becomes", "message"),
        [
            ("@states 6", "@states 7", "6 distinct states, but Small.cfg pins 7"),
            ("\\* @states 6\n", "", "Small.cfg: no line \\* @states N pins"),
            ("x < 3\n", "x < 3 \\* @guard top -> Late\n", "Small.tla:12: without guard top"),
            ("x < 3\n", "x < 3\n  /\\ x < 9 \\* @guard idle -> Late\n", "every invariant still"),
            ("-> Still", "-> Late", "without guard still Still is violated first, not Late"),
            ("-> Late", "-> Nothing", "guard late names Nothing, which is not an invariant"),
            ("guard late ->", "guard late", "a guard is one line"),
            ("guard late", "guard still", "there are two guards named still"),
            ("y > 2", "y > 3", "Small: Late is violated:"),
            ("y = 0 \\/ y > 2", "z = 0", "Small: "),
            *((was, becomes, "Small.tla:") for was, becomes in OUTSIDE),
        ],
    )
    def test_finds_what_is_wrong(
        self, tmp_path: Path, was: str, becomes: str, message: str
    ) -> None:
        assert was in SMALL + CFG
        ran = run(written(tmp_path, SMALL.replace(was, becomes), CFG.replace(was, becomes)))
        assert ran.returncode == 1
        assert message in ran.stderr
        assert "fail as they must" not in ran.stdout

    def test_finds_a_call_that_the_checker_would_misread(self, tmp_path: Path) -> None:
        text = SMALL.replace("Late ==", "Less(x1, y1) == x1 < y1\nBoth(y1) == Less(y1, x)\nLate ==")
        ran = run(written(tmp_path, text))
        assert ran.returncode == 1
        assert "Less(y1, x) is misread: rename y1" in ran.stderr

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["Other"], "no spec Other; there are Small"),
            (["--deep"], "there is no Small.deep.cfg"),
            (["--depth"], "'--depth'"),
            (["--workers", "0"], "--workers 0 is not a number from 1"),
        ],
    )
    def test_refuses_options_that_are_wrong(
        self, tmp_path: Path, options: list[str], message: str
    ) -> None:
        ran = run(written(tmp_path), *options)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert message in ran.stderr

    @pytest.mark.parametrize(("states", "code"), [(6, 0), (5, 1)])
    def test_compares_the_states_with_those_of_tlc(
        self, tmp_path: Path, states: int, code: int
    ) -> None:
        java = tmp_path / "java"
        java.write_text(
            "#!/bin/sh\necho 'No error has been found.'\n"
            f"echo '9 states generated, {states} distinct states found, 0 states left on queue.'\n"
        )
        java.chmod(0o755)
        (tmp_path / "tools.jar").touch()
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        ran = run(written(tmp_path), PATH=path, TLA2TOOLS_JAR=str(tmp_path / "tools.jar"))
        assert ran.returncode == code
        disagrees = "TLC finds 5 distinct states, Small.cfg pins 6"
        assert (disagrees in ran.stderr) == (code == 1)
        assert ("and under TLC" in ran.stdout) == (code == 0)

    def test_says_what_is_missing_for_tlc(self, tmp_path: Path) -> None:
        folder = written(tmp_path)
        ran = run(folder, TLA2TOOLS_JAR=str(tmp_path / "nowhere.jar"))
        assert (ran.returncode, "which is not there" in ran.stderr) == (1, True)
        (tmp_path / "tools.jar").touch()
        ran = run(folder, TLA2TOOLS_JAR=str(tmp_path / "tools.jar"), PATH=str(tmp_path))
        assert (ran.returncode, "`java` does not run" in ran.stderr) == (1, True)
