"""What no linter of Python sees: sizes, words in other files, links, sleeping tests, packaging.

`make lint` does the rest: ruff (docstrings, work left undone, long functions), import-linter, mypy.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import interlock
from tests.repository import ROOT, Check, files, found, name_of, text_of, tracked

MAX_FILE_LINES = 600
# Test files that may sleep, each with the reason.
MAY_SLEEP: dict[str, str] = {}

# Put together here, so that this file passes its own checks.
HOSTS = ["pypi" + ".org", "python" + "hosted", "npm" + "js"]
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
TICKET = re.compile(r"(?<![\w\"'&])#\d{1,5}\b|\b(issue|bug|pull request|PR|GH)[ -]#?\d+", re.I)
IGNORE = re.compile(r"#\s*type:\s*ignore(?!\[[\w,\s-]+\]\s+#\s*\w).*")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def file_length(name: str, text: str) -> list[str]:
    """A file that is too long."""
    lines = len(text.splitlines())
    return [f"{name}: {lines} lines, at most {MAX_FILE_LINES}"] * (lines > MAX_FILE_LINES)


def unfinished(name: str, text: str) -> list[str]:
    """A mark for work left undone, in files that ruff does not read."""
    return [f"{name}:{line}: {word}" for line, word in matches(UNFINISHED, text)]


def ticket_number(name: str, text: str) -> list[str]:
    """A number that means something only to who can see the tickets."""
    return [f"{name}:{line}: {word}" for line, word in matches(TICKET, text)]


def unexplained_ignore(name: str, text: str) -> list[str]:
    """A type error ignored without a reason after it; ruff asks only for its code."""
    return [
        f"{name}:{line}: say why: # type: ignore[code]  # reason: {ignored}"
        for line, ignored in matches(IGNORE, text)
    ]


def sleeping(name: str, text: str) -> list[str]:
    """A test that sleeps: time is no synchronisation.

    Zero seconds only gives way, and the sleep of a durable run is what is tested.
    """
    if name in MAY_SLEEP:
        return []
    return [
        f"{name}:{node.lineno}: {ast.unparse(node)}; wait for what must happen instead"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "sleep"
        and ast.unparse(node.func) != "run.sleep"
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    ]


def registry_host(name: str, text: str) -> list[str]:
    """The host of a package registry."""
    return [f"{name}: names {host}" for host in HOSTS if host in text.lower()]


def broken_link(name: str, text: str) -> list[str]:
    """A relative link to a file, or to a heading, that is not there."""
    problems = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file
        if not path.exists():
            problems.append(f"{name}: {target} is not there")
        elif anchor and anchor not in anchors(text_of(path) if file else text):
            problems.append(f"{name}: {target} names no heading")
    return problems


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def matches(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each match."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, match.group()


CODE = ("src", "tests", "benchmarks", "examples", "tools")
SOURCES = (".py", ".sql", ".lua", ".toml", "Makefile", ".ci/run")
CHECKS: list[tuple[Check, tuple[str, ...], tuple[str, ...]]] = [
    (file_length, (".py", ".sql", ".lua"), CODE),
    (unfinished, (".sql", ".lua", ".toml", "Makefile", ".md"), ("",)),
    (ticket_number, SOURCES, ("",)),
    (unexplained_ignore, (".py",), ("",)),
    (sleeping, (".py",), ("tests",)),
    (registry_host, ("",), ("",)),
    (broken_link, (".md",), ("",)),
]


@pytest.mark.parametrize(("check", "suffixes", "folders"), CHECKS)
def test_nothing_in_the_repository_breaks_a_rule(
    check: Check, suffixes: tuple[str, ...], folders: tuple[str, ...]
) -> None:
    paths = files(*suffixes, under=folders)
    assert paths
    problems = found(check, paths)
    assert not problems, problems


BAD = [
    (file_length, "a = 1\n" * (MAX_FILE_LINES + 1)),
    (unfinished, "pass  # TO" + "DO: the rest"),
    (ticket_number, "pass  # see #" + "123"),
    (ticket_number, "pass  # as issue " + "7 asks"),
    (ticket_number, "pass  # GH" + "-7"),
    (unexplained_ignore, "f()  # type:" + " ignore"),
    (unexplained_ignore, "f()  # type:" + " ignore[arg-type]"),
    (sleeping, "time.sleep(0.1)"),
    (sleeping, "await_it(asyncio.sleep(1))"),
    (registry_host, "see https://" + "pypi" + ".org/project"),
    (broken_link, "see [there](no/such/page.md)"),
    (broken_link, "# A heading\nsee [above](#another-heading)"),
]


@pytest.mark.parametrize(("check", "text"), BAD)
def test_what_breaks_a_rule_is_found(check: Check, text: str) -> None:
    assert len(check("tests/bad.py", text)) == 1


def test_every_rule_is_tried_on_something_bad() -> None:
    assert {check for check, *_ in CHECKS} == {check for check, _ in BAD}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (file_length, "a = 1\n" * MAX_FILE_LINES),
        (ticket_number, "colour = '#123456'; grey = \"#333\"; text = '&#39;'; a = b[1]  # 2 more"),
        (unexplained_ignore, "f()  # type: ignore[arg-type]  # tried with a wrong type on purpose"),
        (sleeping, "await_it(asyncio.sleep(0))"),
        (sleeping, "run.sleep(1)"),
        (broken_link, "# A `heading`!\n[1](https://a.b) [2](#a-heading) [3](../README.md)"),
        (broken_link, "```\n[no](link.md)\n```"),
    ],
)
def test_what_keeps_a_rule_is_not(check: Check, text: str) -> None:
    assert check("tests/good.py", text) == []


def test_files_that_may_sleep_exist_and_say_why() -> None:
    paths = [str(path.relative_to(ROOT)) for path in tracked()]
    assert [name for name in MAY_SLEEP if name not in paths] == []
    assert all(reason.strip() for reason in MAY_SLEEP.values())


def test_continuous_integration_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in text_of(script).splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert "version" not in project
    assert metadata.version("interlock") == interlock.__version__
    page = text_of(ROOT / "CHANGELOG.md")
    assert f"## {interlock.__version__}" in page or "## Unreleased" in page


def test_the_built_wheel_has_all_sources_and_the_mark_of_a_typed_package(tmp_path: Path) -> None:
    """Built by the backend itself: it needs no network."""
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob(f"interlock-{interlock.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("interlock/")}
    assert packed == {name_of(path).removeprefix("src/") for path in files("", under=["src"])}
    assert "interlock/py.typed" in packed


def asked(groups: list[str], extras: list[str]) -> set[str]:
    """Return the packages that pyproject.toml asks for in some groups and extras."""
    pyproject = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    waiting: list[Any] = [{"include-group": group} for group in groups]
    waiting += [f"interlock[{','.join(extras)}]", *pyproject["project"]["dependencies"]]
    names: set[str] = set()
    while waiting:
        need = waiting.pop()
        if isinstance(need, dict):
            waiting += pyproject["dependency-groups"][need["include-group"]]
        elif (wanted := Requirement(need)).name == "interlock":
            each = pyproject["project"]["optional-dependencies"]
            waiting += [more for extra in wanted.extras for more in each[extra]]
        else:
            names.add(canonicalize_name(wanted.name))
    return names


@pytest.mark.parametrize(
    ("lock", "groups", "extras"),
    [
        ("requirements.lock", ["bench", "dev", "docs", "peers", "uv"], ["plot"]),
        ("requirements-crewai.lock", ["crewai"], []),
    ],
)
def test_the_locks_hold_every_dependency_with_hashes_and_no_address(
    lock: str, groups: list[str], extras: list[str]
) -> None:
    """`uv.lock` would name the registry's hosts in each of its lines, see `registry_host`."""
    text = text_of(ROOT / lock)
    assert "://" not in text
    pins = re.split(r"\n(?=\w)", text.strip())
    assert [pin for pin in pins if not re.match(r"[\w.-]+==\S+[^\n]*\\\n +--hash=", pin)] == []
    missing = asked(groups, extras) - {pin.split("==")[0] for pin in pins}
    assert not missing, f"run `make lock`: {sorted(missing)} not in {lock}"
