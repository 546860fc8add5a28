"""The figures of `tools.counts`: what counts as a reach, as a circle, as a file that is crossed."""

from __future__ import annotations

import json

import pytest

from tools import counts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("space._driver.run()", ["space._driver"]),
        ("from interlock.space import _private", ["_private"]),
        ("class A(B):\n  def f(self): return self._of_b", ["self._of_b"]),
        ("class A:\n  def __init__(self): self._a = 1\n  def f(self, other): return other._a", []),
        ("class A:\n  _a: int\n  def f(self): return self._a", []),
        ("import os\nos._exit(1)\nplan._replace(at=1)\nx.__class__", []),
    ],
)
def test_a_private_reach_is_what_the_module_does_not_define(text: str, found: list[str]) -> None:
    assert list(counts.private_reaches(text)) == found


def test_circles_are_modules_that_import_one_another() -> None:
    graph = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"d"}, "e": set()}
    assert counts.circles(graph) == [["a", "b"], ["d"]]


def test_each_figure_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads(json.dumps(counts.counted(details=True)))
    details = figures.pop("details")
    assert all(type(figure) is int for figure in figures.values())
    assert any(name.startswith("backends/sqlite/") for name in details["update"])
    assert figures["coordinator merge: files"] == len(details["coordinator merge"]) > 5
    assert figures["update: changes of file"] >= figures["update: files"] - 1
