"""Which tests of the contract suite `make quick` runs.  Every backend here has all capabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.verify import suite

# All of SQLite is quick.  Of the other files it is one façade of these parts, or nothing.
QUICK = {
    "test_postgres.py": ("sync", {"reads_and_writes", "transactions"}),
    "test_redis.py": ("async", {"reads_and_writes", "transactions"}),
}


def is_quick(item: pytest.Function) -> bool:
    """Say whether `make quick` runs a test of the suite."""
    if item.path.name == "test_sqlite.py":
        return True
    facade, parts = QUICK.get(item.path.name, ("", set[str]()))
    wanted = item.callspec.params.get("facades") if hasattr(item, "callspec") else None
    return wanted == facade and item.function.__module__.rpartition(".")[2] in parts


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is not wanted
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what of the suite is not quick."""
    for item in items:
        if Path(__file__).parent in item.path.parents and isinstance(item, pytest.Function):
            ours = item.function.__module__.startswith(f"{suite.__name__}.")
            if ours and not is_quick(item):
                item.add_marker(pytest.mark.slow)
