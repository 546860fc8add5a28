"""The suite that LangGraph publishes for checkpointers, on every store and with both APIs."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

import interlock
from interlock.adapters.langgraph import Saver
from tests.processes.writers import Place

BASE, ALL = 58, 81  # checks of what every checkpointer must do, and with all that it may do


@pytest.mark.parametrize("facade", ["sync", "async"])
async def test_the_conformance_suite_passes(place: Place, facade: str) -> None:
    @checkpointer_test(name="interlock")
    async def saver() -> AsyncIterator[Saver]:
        space = place.space + secrets.token_hex(4)
        if facade == "sync":
            with interlock.open(place.url, space=space) as opened:
                yield Saver(opened)
        else:
            async with interlock.open_async(place.url, space=space) as opened:
                yield Saver(opened)

    report = await validate(saver)
    failures = [failure for each in report.results.values() for failure in each.failures]
    passed = {name: each.tests_passed for name, each in report.results.items()}
    assert failures == []
    extended = ("copy_thread", "delete_for_runs", "prune")
    assert sum(n for name, n in passed.items() if name not in extended) == BASE
    assert sum(passed.values()) == ALL
    assert report.passed_all_base()
