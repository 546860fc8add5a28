"""Both checkers of histories beside brute force, on thousands of small random histories."""

from __future__ import annotations

from collections import Counter

import pytest

from interlock.verify import check_linearizable, check_serializable
from tests.verify.brute_histories import (
    is_linearizable,
    is_serializable,
    parsed,
    register_history,
    transaction_history,
    valued,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("start", range(0, 3_600, 400))
def test_linearizable_is_what_brute_force_says(start: int) -> None:
    counts: Counter[bool] = Counter()
    for seed in range(start, start + 400):
        lines = register_history(seed)
        verdict = check_linearizable(parsed(lines))
        assert verdict.outcome != "undecided", (seed, str(verdict))
        assert verdict.ok == is_linearizable(lines), (seed, str(verdict))
        counts[verdict.ok] += 1
    assert min(counts[True], counts[False]) > 20, "too few of a kind to mean anything"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("start", range(0, 3_600, 400))
def test_serializable_is_what_brute_force_says(start: int, strict: bool) -> None:
    counts: Counter[str] = Counter()
    for seed in range(start, start + 400):
        lines = transaction_history(seed)
        verdict = check_serializable(parsed(lines), strict=strict)
        counts[verdict.outcome] += 1
        if verdict.outcome != "undecided":
            assert verdict.ok == is_serializable(lines, strict), (seed, str(verdict))
    assert min(counts["ok"], counts["anomalies"]) > 20
    assert counts["undecided"] < 10


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("start", range(0, 1_800, 600))
def test_serializable_by_values_is_what_brute_force_says(start: int, strict: bool) -> None:
    """Without versions some histories are undecided; what is decided is right."""
    counts: Counter[str] = Counter()
    for seed in range(start, start + 600):
        lines = valued(transaction_history(seed))
        verdict = check_serializable(parsed(lines), strict=strict)
        counts[verdict.outcome] += 1
        if verdict.outcome != "undecided":
            assert verdict.ok == is_serializable(lines, strict), (seed, str(verdict))
    assert min(counts["ok"], counts["anomalies"]) > 50


@pytest.mark.parametrize("start", range(0, 2_000, 1_000))
def test_single_keys_are_strictly_serializable_where_they_are_linearizable(start: int) -> None:
    """Two searches that share nothing agree, but for the items of lists."""
    counts: Counter[str] = Counter()
    for seed in range(start, start + 1_000):
        lines = register_history(seed)
        if not any(line["kind"] == "append" for line in lines):
            verdict = check_serializable(parsed(lines), strict=True)
            counts[verdict.outcome] += 1
            if verdict.outcome != "undecided":
                expected = check_linearizable(parsed(lines))
                assert verdict.ok == expected.ok, (seed, str(verdict), str(expected))
    assert min(counts["ok"], counts["anomalies"]) > 50
