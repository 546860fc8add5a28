"""The contract suite as others use it: its page, what it skips, and that it finds what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from interlock.core import requests
from interlock.verify import suite
from tests.documents import blocks
from tests.repository import ROOT, text_of
from tests.test_repository_layers import modules_after

pytest_plugins = ["pytester"]

PAGE = text_of(ROOT / "docs" / "contract-suite.md")
FILES = {
    name[1]: block.text
    for block in blocks(PAGE)
    if (name := re.match(r"# (test_\w+\.py)\n", block.text))
}
# A backend that counts versions wrongly.
BROKEN = """
from interlock.backends.sqlite import SQLiteBackend, SQLiteOptions
from interlock.backends.urls import register

class Broken(SQLiteBackend):
    def perform(self, request):
        answer = super().perform(request)
        if type(request).__name__ == "Load":
            records = {k: r._replace(version=r.version + 1) for k, r in answer.records.items()}
            return answer._replace(records=records)
        return answer

def broken(url, name, **options):
    return Broken(url.replace("broken://", "sqlite://"), name, SQLiteOptions(**options))

register("broken", broken)
"""


def names_in_table(heading: str) -> set[str]:
    """Return what the first column of the table below a heading has as code."""
    rows = PAGE.split(heading)[1].split("\n\n")[0].splitlines()[1:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.slow
def test_the_file_on_the_page_runs_the_suite(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    pytester.makepyfile(test_store=FILES["test_store.py"])
    result = pytester.runpytest_subprocess("-q", "-k", "epoch or transact or rebased")
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] > 20


@pytest.mark.slow
def test_what_a_store_lacks_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_memory=FILES["test_memory.py"])
    result = pytester.runpytest_subprocess("-q", "-rs", "-k", "spaces_of_one_store or tombstone")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        ["SKIPPED [[]2[]] *: the store lacks 'shared': each opening is a store of its own"]
    )


@pytest.mark.slow
def test_a_module_that_needs_what_is_lacking_is_skipped(pytester: pytest.Pytester) -> None:
    text = FILES["test_memory.py"].replace('{"shared": "', '{"groups": "no", "shared": "')
    pytester.makepyfile(test_memory=text)
    result = pytester.runpytest_subprocess("-q", "-rs", "-k", "acknowledged_is_done")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED [[]2[]] *: the store lacks 'groups': no"])


@pytest.mark.slow
def test_a_backend_that_is_wrong_fails_and_shows_what_was_compared(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makeconftest(BROKEN)
    url = f"broken:///{tmp_path / 'store.db'}"
    text = FILES["test_store.py"].replace('os.environ["STORE_URL"]', repr(url))
    pytester.makepyfile(test_store=text)
    result = pytester.runpytest_subprocess("-q", "-k", "never_written_has and sync and not async")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert (1, 0, None, False) == (0, 0, None, False)"])


@pytest.mark.slow
def test_tests_of_ones_own_have_the_fixtures(pytester: pytest.Pytester) -> None:
    where = "import pytest\n\n@pytest.fixture\ndef store_url(tmp_path):\n"
    where += "    return f'sqlite:///{tmp_path}/store.db'\n\n"
    pytester.makepyfile(test_mine=where + FILES["test_mine.py"])
    result = pytester.runpytest_subprocess("-q", "--strict-markers")
    result.assert_outcomes(passed=3)


def test_no_name_of_one_part_hides_one_of_another() -> None:
    shared = {*suite.tests(suite.PARTS[0])} & {*suite.tests(suite.PARTS[1])}
    assert shared == {"other"}
    assert sum(len(suite.tests(part)) - 1 for part in suite.PARTS) == len(suite.tests()) - 1


def test_every_module_of_tests_is_a_part() -> None:
    folder = ROOT / "src" / "interlock" / "verify" / "suite"
    found = {path.stem for path in folder.glob("*.py") if "\ndef test_" in text_of(path)}
    assert found == {*suite.PARTS}


def test_asking_for_a_part_again_gives_each_test_its_marks_once() -> None:
    (first,) = [suite.tests("rebase")["test_disjoint_changes_merge"]]
    assert suite.tests("rebase")["test_disjoint_changes_merge"] is first
    assert [mark.name for mark in first.pytestmark] == ["interlock_space"]


def test_what_is_no_part_and_no_capability_is_said() -> None:
    with pytest.raises(ValueError, match="leeses: not among bad_input"):
        suite.tests("leeses")
    with pytest.raises(ValueError, match="spin: not among shared"):
        suite.Capabilities(lacks={"spin": "it does not"})
    with pytest.raises(ValueError, match="fork: no reason"):
        suite.Capabilities(lacks={"fork": " "})
    with pytest.raises(ValueError, match="'spin' is not among shared"):
        suite.Capabilities().need("spin")


def test_the_page_has_every_part_capability_and_request() -> None:
    asked = {kind.__name__ for kind in requests.Request.__subclasses__()}
    assert names_in_table("| part (of `suite.PARTS`)") == {*suite.PARTS}
    assert names_in_table("| capability (of `suite.CAPABILITIES`)") == {*suite.CAPABILITIES}
    assert names_in_table("| request | what") == asked - {"Think"}, "which is the driver's"
    assert set(FILES) == {"test_store.py", "test_memory.py", "test_mine.py"}


def test_only_who_uses_the_suite_imports_pytest() -> None:
    added = modules_after("import interlock.verify; interlock.verify.explore")
    assert "interlock.verify.explorer" in added
    assert "pytest" not in added
