"""The runner of the suites that others wrote: what it lets pass, and what it does not."""

from __future__ import annotations

import hashlib
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.peers.runner import OWN, Log, Outcome, judged, run
from tests.peers.sources import NotFetched, archive_name, unpacked
from tests.peers.suites import HERE, SUITES, Suite
from tests.repository import ROOT, text_of

pytestmark = pytest.mark.slow  # each starts a pytest of its own

ALONE = ("-p", "no:cacheprovider", "-p", "no:langsmith_plugin")  # which imports all of langsmith
TESTS = """
import os
import pytest

def test_passes():
    assert os.environ["INTERLOCK_PEERS_URL"].startswith("sqlite:///")

def test_fails():
    assert 1 == 2, "as it must"

@pytest.fixture
def broken():
    yield
    raise ValueError("after the test")

def test_fails_afterwards(broken):
    pass

def test_does_not_run():
    pytest.skip("not here")
"""


def a_suite(file: Path, tests: int = 3) -> Suite:
    """Return a suite that is one file, in this environment."""
    return Suite(
        name="made up",
        package="made-up",
        version="1.0",
        tests=tests,
        arguments=("--noconftest", *ALONE, "-c", "/dev/null", str(file)),
        plugin="",
    )


def ran(file: Path, text: str, tests: int = 3, matching: str = "") -> Outcome:
    file.write_text(text)
    python, said = sys.executable, list[str]()
    return run(a_suite(file, tests), OWN, say=said.append, python=python, matching=matching)


def test_failures_that_nobody_expects_are_named(tmp_path: Path) -> None:
    outcome = ran(tmp_path / "test_it.py", TESTS)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, 1)
    assert not outcome.ok
    failing, after = outcome.wrong
    assert re.search(r"test_fails failed: .*as it must", failing)
    assert re.search(r"test_fails_afterwards failed: .*after the test", after)


def test_fewer_tests_than_there_were_are_a_failure(tmp_path: Path) -> None:
    text = "def test_a():\n    pass\n"
    assert ran(tmp_path / "test_it.py", text, tests=1).ok
    fewer = ran(tmp_path / "test_it.py", text, tests=2)
    assert fewer.wrong == ("1 tests ran, and 2 are in the suite",)
    two = text + "def test_b():\n    assert 0\n"
    assert ran(tmp_path / "test_it.py", two, tests=2, matching="test_a").ok


def test_a_suite_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    outcome = ran(tmp_path / "test_it.py", "import no_such_module\n", tests=0)
    assert "test_it.py failed: " in outcome.wrong[0]
    assert "pytest ended with code 2" in outcome.wrong[-1]


def test_a_plugin_that_is_missing_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("def test_a():\n    pass\n")
    said: list[str] = []
    suite = replace(a_suite(file, 1), plugin="no_such_plugin")
    outcome = run(suite, "sqlite", say=said.append, python=sys.executable)
    assert "no_such_plugin" in outcome.wrong[-1]


LOG = Log({"a": "passed", "b": "failed", "c": "skipped"}, {"b": "why"})
SUITE = a_suite(Path("nowhere"), tests=2)


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ({"b": "it looks into a table"}, ()),
        ({}, ("b failed: why",)),
        (
            {"a": "a reason", "b": ""},
            ("a passed, and is expected to fail: a reason",),
        ),
        (
            {"b": "", "gone": "a reason"},
            ("gone did not run, and is expected to fail: a reason",),
        ),
    ],
)
def test_failures_are_those_that_are_expected(
    expected: dict[str, str], wrong: tuple[str, ...]
) -> None:
    outcome = judged(SUITE, "sqlite", LOG, expected)
    assert outcome.wrong == wrong
    assert outcome.as_json()["ok"] == (not wrong)


# Where the suites come from


def published(cache: Path, sha256: str = "") -> Suite:
    """Put a source distribution where pip would have put it."""
    (cache / "made").mkdir(parents=True)
    (cache / "made" / "test_it.py").write_text(TESTS)
    archive = cache / "made_up-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.add(cache / "made", "made_up-1.0")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return Suite("made up", "made-up", "1.0", 3, (), "", sha256=sha256 or digest)


def test_a_suite_is_unpacked_anew_each_time(tmp_path: Path) -> None:
    suite = published(tmp_path)
    folder = unpacked(suite, tmp_path)
    (folder / "test_it.py").write_text("changed")
    (folder / "left.py").write_text("left")
    again = unpacked(suite, tmp_path)
    assert [path.name for path in again.iterdir()] == ["test_it.py"]
    assert text_of(again / "test_it.py") == TESTS


def test_an_archive_that_was_not_pinned_is_refused(tmp_path: Path) -> None:
    suite = published(tmp_path, sha256="0" * 64)
    with pytest.raises(NotFetched, match="remove it"):
        unpacked(suite, tmp_path)
    assert not (tmp_path / "made_up-1.0").exists()


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_suite_tests_the_version_that_its_environment_has(suite: Suite) -> None:
    crewai = suite.environment == ".venv-crewai"
    lock = text_of(ROOT / ("requirements-crewai.lock" if crewai else "requirements.lock"))
    assert f"\n{suite.package}=={suite.version} " in f"\n{lock}"
    assert archive_name(suite).endswith(f"-{suite.version}.tar.gz")
    assert (HERE / f"{suite.plugin}.py").exists() or not suite.plugin
    assert all(reason.strip() for reason in suite.expected.values())
