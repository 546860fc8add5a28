"""Tests of LangGraph's own stores that ours must fail, and why."""

from __future__ import annotations

from itertools import product

_LOOP = "a synchronous call in the loop of an asynchronous space raises interlock.Invalid"
_SQL = "names of fields never become SQL here, so none is refused"
_ROWS = "it sets when rows of a table expire, and there is no such table here"
_TABLES = "it looks for a table of vectors"
_POOL = "it counts what LangGraph's store takes from its pool"
_CONNECTIONS = ("default", "pipe", "pool")

SQLITE = {
    **{
        f"tests/test_async_store.py::test_no_running_loop[{on}]": _LOOP for on in ("memory", "file")
    },
    **{
        f"tests/test_store.py::test_sql_injection_vulnerability[{on}]": _SQL
        for on in ("memory", "file")
    },
}

POSTGRES = {
    **{f"tests/test_async_store.py::test_no_running_loop[{on}]": _LOOP for on in _CONNECTIONS},
    **{
        f"tests/{file}.py::test_omit_expired_{what}]": _ROWS
        for file, on in product(("test_store", "test_async_store"), _CONNECTIONS)
        for what in (
            f"search_pagination[{on}",
            f"refresh_ttl_only_refreshes_live_rows[{on}",
            f"filters_read_paths[{on}",
            f"disabled_preserves_expired_rows[{on}-default",
            f"disabled_preserves_expired_rows[{on}-explicit-false",
        )
    },
    "tests/test_async_store.py::test_abatch_uses_single_pool_checkout": _POOL,
}
