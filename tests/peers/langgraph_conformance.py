"""Runs `langgraph-checkpoint-conformance` for the asynchronous SQLite saver of LangGraph.

With `langgraph_plugin` loaded that name is our saver.  Each of its checks is one test here; they
run once, by the package's own `validate`.  Only `tests.peers` runs this file.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncGenerator
from functools import cache

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, spec, validate
from langgraph.checkpoint.conformance.report import ProgressCallbacks
from langgraph.checkpoint.sqlite.aio import (  # type: ignore[import-not-found]  # only peers have it
    AsyncSqliteSaver,
)


@checkpointer_test(name="saver")
async def saver() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
    async with AsyncSqliteSaver.from_conn_string(":memory:") as made:
        yield made


def checks() -> list[str]:
    """Return the names of the package's checks: `put/test_put_returns_config` and so on."""
    found = []
    for module in pkgutil.iter_modules(spec.__path__):
        held = vars(importlib.import_module(f"{spec.__name__}.{module.name}"))
        lists = [value for name, value in held.items() if name.startswith("ALL_")]
        capability = module.name.removeprefix("test_")
        found += [f"{capability}/{check.__name__}" for each in lists for check in each]
    return found


@cache
def results() -> dict[str, str]:
    """Return what is wrong by each check that ran; an empty text where nothing is."""
    found: dict[str, str] = {}

    def note(capability: str, check: str, passed: bool, problem: str | None) -> None:
        found[f"{capability}/{check}"] = "" if passed else problem or "failed"

    asyncio.run(validate(saver, progress=ProgressCallbacks(on_test_result=note)))
    return found


@pytest.mark.parametrize("check", checks())
def test_conformance(check: str) -> None:
    if check not in results():
        pytest.skip("this saver does not offer it")
    assert results()[check] == ""
