"""The contract suite: the tests that every backend passes, with both façades.

A file of tests needs a fixture `store_url` and `globals().update(suite.tests())`; the pytest plugin
of Interlock gives them the fixtures `facades` and `space`.  What a store lacks is declared by a
fixture `store_capabilities`, and skips the tests that need it, with the reason.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from interlock.verify.suite.capabilities import CAPABILITIES, Capabilities

PARTS = (
    *("bad_input", "breaker", "conflicts", "consumer_groups", "coordinator", "group_order"),
    *("leases", "log", "machines", "merged", "projections", "reads_and_writes", "rebase", "rules"),
    *("rules_again", "runs", "runs_effects", "runs_endings", "runs_waiting", "transactions"),
    *("trimming", "updates", "waits"),
)

__all__ = ["CAPABILITIES", "PARTS", "Capabilities", "Facades", "tests"]

# Before any of them is imported: a failed assertion then shows what was compared.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in PARTS))

from interlock.verify.suite.facades import Facades, other  # noqa: E402


def tests(*parts: str) -> dict[str, Any]:
    """Return the tests of these parts (of `PARTS`; all of them where none is named) by name.

    The fixtures that the tests of a part share are there, too.
    """
    if unknown := sorted({*parts} - {*PARTS}):
        raise ValueError(f"{', '.join(unknown)}: not among {', '.join(PARTS)}")
    found: dict[str, Any] = {"other": other}
    for part in parts or PARTS:
        found |= _found(part)
    return found


@cache
def _found(part: str) -> dict[str, Any]:
    """Return what a module has for `tests`: its marks are those of each test, once."""
    module: ModuleType = import_module(f"{__name__}.{part}")
    marks = getattr(module, "pytestmark", [])
    found = {name: getattr(module, name) for name in getattr(module, "FIXTURES", ())}
    for name, value in vars(module).items():
        if name.startswith("test_"):
            for mark in marks:
                mark(value)
            found[name] = value
    return found
