"""The tests of CrewAI's own that fail against Interlock's persistence, each with the reason.

The files of the published sources (crewai 1.15.30, folder `tests`) that are run, the plugin that
puts `Persistence` in place of `SQLiteFlowPersistence`, and what cannot pass.
"""

from __future__ import annotations

import sqlite3

PACKAGE = "crewai==1.15.30"
PLUGIN = "crewai_plugin"
FILES = (
    "tests/test_flow_persistence.py",
    "tests/test_async_human_feedback.py",
    "tests/test_flow_persistence_factory.py",
    "tests/test_sqlite_connection_lifecycle.py",
    "tests/test_execution_uuid.py",
)
TESTS = 101

_LIFE = "tests/test_sqlite_connection_lifecycle.py"

# By node id: what of the other implementation the test looks at.
EXPECTED: dict[str, str] = {
    f"{_LIFE}::test_flow_persistence_closes_every_connection": (
        "counts that each call opens one connection of sqlite3; a space keeps its connections"
    ),
    f"{_LIFE}::test_flow_persistence_failed_write_rolls_back_and_closes": (
        "makes sqlite3.connect return connections that fail; a space has opened its own before"
    ),
    f"{_LIFE}::test_parallel_flow_initialization_does_not_use_store_lock[False]": (
        "looks for the tables flow_states and pending_feedback in the file"
    ),
    f"{_LIFE}::test_parallel_flow_initialization_does_not_use_store_lock[True]": (
        "looks for the tables flow_states and pending_feedback in the file"
    ),
}

# They test another class of CrewAI's, and fail with everything of CrewAI's own in place, too, where
# Python's SQLite is older than 3.45.
NEEDS_SQLITE_3_45: dict[str, str] = {
    f"{_LIFE}::test_sqlite_provider_closes_every_connection": "SQLite has no function jsonb",
    f"{_LIFE}::test_sqlite_provider_db_is_removable_after_use": "SQLite has no function jsonb",
}
if sqlite3.sqlite_version_info < (3, 45):
    EXPECTED |= NEEDS_SQLITE_3_45
