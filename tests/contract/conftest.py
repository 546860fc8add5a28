"""What applies the contract suite to each backend: what `make quick` leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

# All of SQLite is quick.  Of each server it is this: the writes, reads and checks of one façade.
QUICK = {
    "test_postgres.py": ("sync", ("reads_and_writes", "transactions")),
    "test_redis.py": ("async", ("reads_and_writes", "transactions")),
}


def is_quick(file: str, facade: str, part: str) -> bool:
    """Say whether a test of the suite is run by `make quick`."""
    if file == "test_sqlite.py":
        return True
    quick_facade, parts = QUICK.get(file, ("", ()))
    return facade == quick_facade and part in parts


@pytest.hookimpl(tryfirst=True)  # before those that are not wanted are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is not quick."""
    for item in items:
        if Path(__file__).parent in item.path.parents and isinstance(item, pytest.Function):
            facade = item.callspec.params.get("facades", "") if hasattr(item, "callspec") else ""
            part = item.function.__module__.rpartition(".")[2]
            if not is_quick(item.path.name, facade, part):
                item.add_marker(pytest.mark.slow)
