"""Which tests of the contract suite `make quick` runs.  Every backend here has all capabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.verify import suite

# Of each file it is one façade of these parts, or nothing.  Synchronous SQLite has all but a few.
QUICK = {
    "test_sqlite.py": ("sync", {*suite.PARTS} - {"group_order", "trimming"}),
    "test_postgres.py": ("sync", {"reads_and_writes", "transactions"}),
    "test_redis.py": ("async", {"reads_and_writes", "transactions"}),
}


def is_quick(item: pytest.Function) -> bool:
    """Say whether `make quick` runs a test of the suite."""
    facade, parts = QUICK.get(item.path.name, ("", set[str]()))
    wanted = item.callspec.params.get("facades") if hasattr(item, "callspec") else None
    part = item.function.__module__.rpartition(".")[2]
    sqlite = item.path.name == "test_sqlite.py"
    either = sqlite and (wanted is None or part in ("reads_and_writes", "updates"))
    return (either or wanted == facade) and part in parts


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is not wanted
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what of the suite is not quick."""
    for item in items:
        if Path(__file__).parent in item.path.parents and isinstance(item, pytest.Function):
            ours = item.function.__module__.startswith(f"{suite.__name__}.")
            if ours and not is_quick(item):
                item.add_marker(pytest.mark.slow)
