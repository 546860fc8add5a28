"""How protocols are written: who makes a plan, and how requests are called."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from interlock.core.requests import Request
from tests.repository import Check, files, found

SOURCES = ("src", "tests", "benchmarks", "examples")
MAKER = "src/interlock/core/writer.py"  # has the Writer, which knows every fence
REQUESTS = {kind.__name__ for kind in Request.__subclasses__()}
MOST_POSITIONAL = 3


def calls(text: str) -> Iterator[tuple[ast.Call, str]]:
    """Yield each call with the name of what is called."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).split(".")[-1]


def plan_of_ones_own(name: str, text: str) -> list[str]:
    """A plan that is made elsewhere than by the writer, and may lack a fence."""
    made = [node.lineno for node, called in calls(text) if called == "Plan"]
    if name == MAKER:
        return [f"{name}: {len(made)} plans are made here, not one"] * (len(made) != 1)
    return [f"{name}:{line}: use writer.plan(...), which knows the fences" for line in made]


def nameless_arguments(name: str, text: str) -> list[str]:
    """A request whose arguments nobody can tell apart."""
    return [
        f"{name}:{node.lineno}: name the arguments of {called}"
        for node, called in calls(text)
        if called in REQUESTS
        and (len(node.args) > MOST_POSITIONAL or any(isinstance(a, ast.Starred) for a in node.args))
    ]


@pytest.mark.parametrize("check", [plan_of_ones_own, nameless_arguments])
def test_protocols_are_written_as_agreed(check: Check) -> None:
    assert found(check, files(".py", under=SOURCES)) == ""


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (plan_of_ones_own, "plan = Plan('op')"),
        (plan_of_ones_own, "from interlock.core import plan\nplan.Plan('op')"),
        (nameless_arguments, "TakeLease(('k',), 'name', 'agent', 1)"),
        (nameless_arguments, "requests.TakeLease(*fields)"),
    ],
)
def test_the_checks_find_what_they_are_for(check: Check, text: str) -> None:
    assert check("src/interlock/space.py", text)


def test_a_second_maker_of_plans_is_found() -> None:
    assert plan_of_ones_own(MAKER, "Plan('op')") == []
    assert plan_of_ones_own(MAKER, "Plan('op')\nPlan('op')")
