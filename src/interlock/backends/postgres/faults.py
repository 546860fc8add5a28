"""Turns what psycopg raises into the library's faults, by PostgreSQL's own error codes."""

from __future__ import annotations

from interlock.backends.contract import dropped
from interlock.errors import AnswerLost, Corrupt, IncompatibleStore, InterlockError, Unavailable
from interlock.extras import needs

with needs("psycopg", "postgres"):
    import psycopg
    import psycopg.generators
    import psycopg_pool

__all__ = ["fault_of", "must_repeat", "psycopg", "psycopg_pool"]

_REPEATED = ("40001", "40P01")  # serialization failure, deadlock: rolled back, to be sent again
_GONE = ("08", "57P01", "57P02", "57P03", "57P05")  # the connection or the server went away
_FULL = (
    *("too many clients already", "too many connections for", "remaining connection slots"),
    "no more connections allowed",  # PgBouncer
)
_NOT_OURS = ("42883", "42P01", "3F000", "42703")  # no such function, table, schema, column


def must_repeat(problem: Exception) -> bool:
    """Whether the server rolled the statement back only because of others."""
    return isinstance(problem, psycopg.Error) and problem.sqlstate in _REPEATED


def is_full(problem: Exception) -> bool:
    """Whether the server, the database or the role has no connection left.  libpq gives no code for
    what fails before a connection is there."""
    told = str(problem)
    return getattr(problem, "sqlstate", None) == "53300" or any(each in told for each in _FULL)


def fault_of(problem: Exception, place: str, sent: bool) -> InterlockError | AnswerLost:
    """Return the fault that `problem` is.  `sent`: the statement may have reached the server."""
    if isinstance(problem, psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed):
        return Unavailable(
            f"No connection to {place} within busy_timeout: it is away, or all are in use."
        )
    code = getattr(problem, "sqlstate", None) or ""
    told = str(problem).strip().partition("\n")[0]
    if not sent and is_full(problem):
        return Unavailable(
            f"{place} has no connection left, and none came free within busy_timeout. "
            f"Raise its max_connections. ({told})"
        )
    if code == "ILK01":
        return dropped(place)
    if code == "55P03":
        return Unavailable(
            f"{place} is busy: another transaction held a lock for longer than busy_timeout. "
            f"Nothing was written. ({told})"
        )
    if code.startswith(_GONE) or not code:
        if sent:
            return AnswerLost(told)
        return Unavailable(f"Can't reach {place} ({told}). Nothing was sent.")
    if code in ("53100", "53200"):
        return Unavailable(f"{place} is out of disk space or memory. Nothing was written. ({told})")
    if code == "53300":
        return Unavailable(f"{place} has no connection left. Raise its max_connections. ({told})")
    if code == "25006":
        return Unavailable(f"{place} is read-only, perhaps a replica: name the primary. ({told})")
    if code == "42501":
        return Unavailable(
            f"{place} does not let this role do that: {told}. Grant it what "
            "docs/how-to/postgresql.md says."
        )
    if code.startswith("28") or code == "3D000":
        return Unavailable(f"{place} refused the login: {told}")
    if code in _NOT_OURS:
        return IncompatibleStore(f"{place} has no store of this version of Interlock: {told}")
    if code.startswith("XX"):
        return Corrupt(f"{place} is damaged: {told} ({code})")
    return Unavailable(f"{place} refused the call: {told} ({code}). Nothing was written.")
