"""How the kit judges: what counts as a loss, whatever the framework."""

from __future__ import annotations

import pytest

from interlock.verify.frameworks import Report, check_cache_store
from interlock.verify.frameworks.agents import counted, effects


class RefusesEverything:
    """A cache store that keeps nothing, and says so."""

    def get(self, key: str, default: object = None) -> object:
        return default

    def set(self, key: str, value: object) -> None:
        raise ValueError("no")


def test_a_store_that_refuses_everything_does_not_pass() -> None:
    report = check_cache_store(RefusesEverything)
    assert not report.passed
    assert "nothing was ever acknowledged" in report["parallel_writers"].explanation


@pytest.mark.parametrize(
    ("expected", "found", "kept"),
    [(["a", "b"], ["a", "b"], 2), (["a", "b"], ["a"], 1), (["a", "b"], ["a", "b", "b"], 1)],
)
def test_what_was_acknowledged_is_there_once(
    expected: list[str], found: list[str], kept: int
) -> None:
    result = counted("case", expected, found, [])
    assert (result.expected, result.kept, result.passed) == (2, kept, kept == 2)


def test_effects_run_an_exact_number_of_times() -> None:
    assert [effects("case", 1, ran, "it").passed for ran in (0, 1, 2)] == [False, True, False]


def test_a_report_prints_as_a_table() -> None:
    report = Report("A store", (counted("one", ["a"], [], []), counted("two", ["a"], ["a"], [])))
    assert report.failed == ("one",)
    subject, head, one, two = str(report).splitlines()
    assert (subject, head.split()) == ("A store", ["case", "expected", "kept"])
    assert one.split()[:4] == ["one", "1", "0", "LOST"]
    assert two.split()[:4] == ["two", "1", "1", "ok"]
