"""The fixture `explore_interlock`, as a user's test suite gets it, and the page that shows it."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from interlock import Space

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "explorer.md"
QUIET = ("-q", "-p", "no:langsmith_plugin")  # that plugin imports all of langsmith
PLUGIN = ("-p", "interlock.verify.pytest")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_pytest_has_the_fixture_only_where_it_is_asked_for(pytester: pytest.Pytester) -> None:
    assert [each.name for each in entry_points(group="pytest11") if "interlock" in each.value] == []
    pytester.makepyfile("def test_it(explore_interlock): pass")
    pytester.runpytest_subprocess(*QUIET).assert_outcomes(errors=1)
    pytester.runpytest_subprocess(*QUIET, *PLUGIN).assert_outcomes(passed=1)


def test_the_fixture_prints_what_it_explored(
    explore_interlock: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def agent(space: Space) -> None:
        space.update("count", lambda n: n + 1, default=0)

    explored = explore_interlock({"a": agent, "b": agent})
    assert capsys.readouterr().out == (
        "220 schedules of at most 7 moves, 132 states: 5 invariants hold\n"
    )
    assert (explored.schedules, explored.states) == (220, 132)


@pytest.mark.slow
def test_the_tests_on_the_page_pass_and_fail_as_it_says(pytester: pytest.Pytester) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    pytester.makepyfile(test_page="\n".join(blocks))
    result = pytester.runpytest_subprocess(*QUIET, "-rA", *PLUGIN)
    result.stdout.fnmatch_lines(["* schedules of at most * moves, * states: * invariants hold"])
    assert result.ret == 0


def test_a_violation_is_the_story_and_nothing_else(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def overwrites(space):
            count = space.read("count").value or 0
            space.write(space.read("count"), count + 1, touch=True)

        def kept(view):
            return (view.read("count").value or 0) == len(view.log())

        def test_kept(explore_interlock):
            explore_interlock({"a": overwrites, "b": overwrites}, invariants=kept)
        """
    )
    result = pytester.runpytest_subprocess(*QUIET, *PLUGIN)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*kept: it returned False",
            "*The shortest schedule that does this (6 moves):",
            "*1. a reads 'count': 'count' is absent.",
        ]
    )
    result.stdout.no_fnmatch_line("*explorer/search.py*")
