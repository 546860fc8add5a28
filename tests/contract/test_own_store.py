"""The contract suite on a store of one's own: `make contract`, what it skips, what it finds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from subprocess import PIPE, STDOUT, run

import pytest

from interlock.core import spaces, transfer
from interlock.core.requests import Request
from tests.facades import CAPABILITIES, Capabilities
from tests.repository import ROOT, contract_parts, text_of
from tests.test_repository_layers import modules_after

PAGE = text_of(ROOT / "docs" / "how-to" / "contract-suite.md")
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


def contract(store: str, matching: str, *options: str, path: Path | None = None) -> str:
    """Run `make contract` for some tests; return what it said."""
    # The environment is there; the time stamp of a file says nothing about it.
    words = " ".join(["-q", "-p no:cacheprovider", f"-k '{matching}'", *options])
    command = ["make", "--no-print-directory", "-o", ".venv/dev.stamp", "contract"]
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    asked = [*command, f"STORE={store}", f"OPTIONS={words}"]
    ran = run(asked, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True, env=environment, check=False)
    return ran.stdout


def names_in_table(heading: str) -> set[str]:
    """Return what the first column of the table below a heading has as code."""
    rows = PAGE.split(heading)[1].split("\n\n")[0].splitlines()[1:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.slow
def test_make_contract_runs_the_suite_and_nothing_else(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    said = contract(store, "epoch or transact or rebased or tampered")
    found = re.search(r"(\d+) passed, \d+ deselected in", said)
    assert found, said
    assert int(found[1]) > 20
    assert (tmp_path / "store.db").is_file()


@pytest.mark.slow
def test_what_a_store_lacks_is_skipped_with_the_reason() -> None:
    options = ["--lacks 'shared=each opening is a store of its own'", "--lacks groups=no"]
    matching = "spaces_of_one_store or tombstone or acknowledged_is_done"
    said = contract("sqlite://", matching, *options)
    assert "2 passed, 4 skipped" in said, said
    shown = r"SKIPPED \[2\] .*: the store lacks 'shared': each opening is a store of its own"
    assert re.search(shown, said), said
    assert re.search(r"SKIPPED \[2\] .*: the store lacks 'groups': no\n", said), said


@pytest.mark.slow
def test_a_backend_that_is_wrong_fails_and_shows_what_was_compared(tmp_path: Path) -> None:
    (tmp_path / "broken_backend.py").write_text(BROKEN)
    store = f"broken:///{tmp_path / 'store.db'}"
    matching = "never_written_has and sync and not async"
    said = contract(store, matching, "-p broken_backend", path=tmp_path)
    assert "1 failed" in said, said
    assert "assert (1, 0, None, False) == (0, 0, None, False)" in said


def test_what_is_no_capability_and_what_has_no_reason_is_said() -> None:
    with pytest.raises(ValueError, match="spin: not among shared"):
        Capabilities(lacks={"spin": "it does not"})
    with pytest.raises(ValueError, match="fork: no reason"):
        Capabilities(lacks={"fork": " "})
    with pytest.raises(ValueError, match="'spin' is not among shared"):
        Capabilities().need("spin")


def test_the_page_has_every_part_capability_and_request() -> None:
    every = [*Request.__subclasses__(), *vars(spaces).values(), *vars(transfer).values()]
    kinds = [each for each in every if isinstance(each, type) and Request in each.__bases__]
    asked = {kind.__name__ for kind in kinds if kind.__module__.startswith("interlock.")}
    assert names_in_table("| part (`test_....py`)") == {*contract_parts()}
    assert names_in_table("| capability |") == {*CAPABILITIES}
    assert names_in_table("| request | what") == asked - {"Think"}, "which is the driver's"


def test_only_who_tests_imports_pytest() -> None:
    added = modules_after("import interlock.verify; interlock.verify.explore")
    assert "interlock.verify.explorer.search" in added
    assert "pytest" not in added
