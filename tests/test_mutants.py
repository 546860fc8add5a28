"""The tables of guards and mutants are up to date, and the runner tells the found from the rest."""

from __future__ import annotations

import os
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.documents import make_targets
from tests.mutants import page, table
from tests.mutants.__main__ import complaint, main
from tests.mutants.runner import BROKEN, FOUND, HANGS, SURVIVES, Ran, Runner, Verdict, judged
from tests.mutants.table import Guard, Mutant, Table, Wrong
from tests.repository import ROOT, text_of
from tests.servers.process import wait_until

TABLE = table.read()


def test_each_text_stands_once_and_each_test_is_there() -> None:
    assert table.problems(TABLE, ROOT) == []


def test_each_guard_of_the_specs_is_taken_out_of_the_code_or_excused() -> None:
    assert table.spec_problems(TABLE, ROOT / "formal") == []


def test_the_page_has_the_table() -> None:
    path = ROOT / page.PAGE
    text = text_of(path)
    assert text == page.with_table(text, TABLE, ROOT), "python -m tests.mutants --write"
    assert f"\n{len(TABLE.mutants)} mutants, each found by its test\n" in text
    for guard in TABLE.guards.values():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {guard.name} | ")]
        for mutant in TABLE.mutants:
            shown = f"`{mutant.name}`" in row and mutant.test.split("::")[1].split("[")[0] in row
            assert shown == (mutant.guard == guard.name)
    with pytest.raises(Wrong, match="has no"):
        page.with_table("no table here", TABLE, ROOT)


def test_make_and_the_command_line() -> None:
    assert "mutants" in make_targets(text_of(ROOT / "Makefile"))
    ran = CliRunner().invoke(main, ["--list", "redis/epoch"])
    assert (ran.exit_code, ran.output.split()[0]) == (0, "redis/epoch")
    ran = CliRunner().invoke(main, ["no-such-guard"])
    assert ran.exit_code == 1
    assert "no mutant is named like 'no-such-guard'" in ran.output
    options = [flag for each in main.params for flag in each.opts if flag.startswith("--")]
    assert all(flag in text_of(ROOT / page.PAGE) for flag in options)


# The checks and the runner, tried on a small project.

SOURCE = """
def withdraw(balance, amount):
    if amount > balance:
        raise ValueError(amount)
    left = balance - amount
    return left
"""
TESTS = """
import os, pathlib, threading
import pytest
from small import withdraw

def test_nobody_is_in_debt():
    with pytest.raises(ValueError):
        withdraw(1, 2)

def test_something_is_left():
    assert withdraw(2, 1) == 1

def test_it_fails():
    assert False

def test_it_waits():
    if withdraw(1, 1) == 0:
        return
    pathlib.Path(FILE).write_text(str(os.getpid()))
    threading.Event().wait()
"""
GUARD = "if amount > balance:"


def small(text: str, becomes: str, test: str = "test_nobody_is_in_debt") -> Mutant:
    """Return a mutant of the small project."""
    node = f"tests/test_small.py::{test}"
    return Mutant(f"core/debt-{becomes}", "core", "debt", "src/small.py", text, becomes, node)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one function and its tests, which need no plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name, text in (("src/small.py", SOURCE), ("tests/test_small.py", TESTS)):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True)
        text = text.replace("FILE", repr(str(tmp_path / "pid")))
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return tmp_path / "project"


def test_the_runner_tells_what_is_found_what_survives_and_what_is_broken(project: Path) -> None:
    mutants = [
        small(GUARD, "if False:"),
        small(GUARD, "if False:", "test_something_is_left"),
        small(GUARD, "if nothing_of_this_name:"),
        small("    if amount", "    iff amount"),
    ]
    said: list[Verdict] = []
    with Runner(project, 2, 120) as runner:
        assert runner.without_mutants([mutants[0].test, mutants[1].test]) == []
        verdicts = runner.each(mutants, said.append)
        (failing,) = runner.without_mutants(["tests/test_small.py::test_it_fails"])
        (missing,) = runner.without_mutants(["tests/test_small.py::test_nowhere"])
    assert said == verdicts
    found = {each.mutant: (each.what, each.why) for each in verdicts}
    assert found[mutants[0]] == (FOUND, "DID NOT RAISE ValueError")
    assert found[mutants[1]] == (SURVIVES, "its test passes")
    assert found[mutants[2]][0] == BROKEN
    assert found[mutants[2]][1].startswith("NameError in call: name 'nothing_of_this_name'")
    assert found[mutants[3]][0] == BROKEN
    assert "assert False" in failing.why
    assert "not found" in missing.why
    assert not runner.folder.exists()
    assert (project / "src" / "small.py").read_text(encoding="utf-8") == SOURCE
    text = complaint([each for each in verdicts if each.what != FOUND], 4)
    assert text.endswith("3 of 4 mutants are not found by their tests")
    assert f"  {mutants[1].name}  {mutants[1].test}\n" in text


@pytest.mark.slow
def test_stopping_leaves_nothing_behind(project: Path) -> None:
    file = project.parent / "pid"
    mutant = small("return left", "return left + 1", "test_it_waits")
    runner = Runner(project, 1, 120)
    with ThreadPoolExecutor(1) as thread:
        waits = thread.submit(runner.each, [mutant, mutant], lambda verdict: None)
        wait_until(lambda: file.exists() and file.read_text() != "", "the test runs")
        runner.close()
        assert waits.exception() is not None, "the second one is not begun"
    assert not runner.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


@pytest.mark.slow
def test_a_mutant_that_is_not_done_in_time_hangs(project: Path) -> None:
    mutant = small("return left", "return left + 1", "test_it_waits")
    with Runner(project, 1, 3) as runner:
        (verdict,) = runner.each([mutant], lambda verdict: None)
    assert verdict.what == HANGS


REFUSED = {"when": "call", "kinds": ["Conflict", "Refused"], "words": "moved"}


@pytest.mark.parametrize(
    ("code", "failures", "raises", "what"),
    [
        (1, [REFUSED], "", FOUND),
        (0, [], "", SURVIVES),
        (None, [], "", HANGS),
        (4, [], "", BROKEN),
        (1, [REFUSED], "Unavailable", BROKEN),
        (1, [{**REFUSED, "when": "setup"}], "", BROKEN),
        (1, [{**REFUSED, "kinds": ["Unavailable", "Fault"]}], "", BROKEN),
        (1, [{**REFUSED, "kinds": ["Unavailable", "Fault"]}], "Fault", FOUND),
        (1, [REFUSED, {"when": "collect", "kinds": [], "words": ""}], "", BROKEN),
    ],
)
def test_what_counts_as_found(
    code: int | None, failures: list[dict[str, object]], raises: str, what: str
) -> None:
    mutant = small(GUARD, "if False:")._replace(raises=raises)
    ran = Ran(code, {"failures": failures, "source": None}, "the output", 1.0)
    assert judged(mutant, ran, ROOT)[0] == what
    elsewhere = Ran(1, {"failures": [REFUSED], "source": "/elsewhere/interlock.py"}, "", 1.0)
    assert judged(mutant, elsewhere, ROOT)[0] == BROKEN


@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        (small("if amount < balance:", ""), "has 0 times, not once"),
        (small("balance", ""), "has 3 times, not once"),
        (small(GUARD, "if amount > :"), "invalid syntax"),
        (small(GUARD, GUARD), "it changes nothing"),
        (
            small(GUARD, "if False:", "test_nowhere"),
            "there is no tests/test_small.py::test_nowhere",
        ),
        (small(GUARD, "if False:")._replace(file="src/no.py"), "No such file"),
    ],
)
def test_a_table_that_is_out_of_date_is_found(project: Path, mutant: Mutant, problem: str) -> None:
    guard = Guard("debt", "nobody is in debt", mutant.test, ("Money.debt",))
    fine = Table({"debt": guard}, [small(GUARD, "if False:")], {}, {})
    assert table.problems(fine, project) == []
    (found,) = table.problems(fine._replace(mutants=[mutant]), project)
    assert problem in found


def test_a_backend_without_a_guard_that_another_has_is_found(project: Path) -> None:
    mutant = small(GUARD, "if False:")._replace(layer="sqlite")
    guard = Guard("debt", "nobody is in debt", mutant.test, ("Money.debt",))
    lacking = {("debt", "redis"): "why", ("debt", "sqlite"): "why"}
    assert table.problems(Table({"debt": guard}, [mutant], {}, lacking), project) == [
        "debt: no mutant of postgres, and no reason",
        "debt: sqlite has it, or lacks what nobody has",
    ]


def test_guards_without_mutants_and_specs_without_guards_are_found(tmp_path: Path) -> None:
    guard = Guard("debt", "nobody is in debt", "tests/test_small.py::test_nowhere", ("Money.debt",))
    unheld = Table({"debt": guard._replace(specs=())}, [], {"Money.gone": "why"}, {})
    assert table.problems(unheld, ROOT) == [
        "debt: no mutant takes it out",
        "debt: name its guards in the specs, or say why there is none",
    ]
    spec = "  /\\ a <= b  \\* @guard debt -> NoDebt\n  /\\ b > 0  \\* @guard empty -> NoDebt\n"
    (tmp_path / "Money.tla").write_text(spec, encoding="utf-8")
    assert table.spec_guards(tmp_path) == {"Money.debt": "NoDebt", "Money.empty": "NoDebt"}
    named = Table({"debt": guard}, [], {"Money.gone": "why", "Money.debt": "why"}, {})
    assert table.spec_problems(named, tmp_path) == [
        "Money.empty: no guard names it, and no reason is given",
        "Money.gone: no spec has it",
        "Money.debt: it has a guard and an excuse",
    ]
