"""From what an application has to the driver's own connection: SQLAlchemy's objects are unwrapped.

Types are recognised by their names: nothing is imported that the application does not use.
"""

from __future__ import annotations

from typing import Any

from interlock.errors import Invalid

_SESSIONS = ("Session", "scoped_session")
_ASYNC_SESSIONS = ("AsyncSession", "async_scoped_session")


def is_a(thing: object, library: str, *names: str) -> bool:
    """Whether `thing` is an instance of one of these classes of a library, or of any of them."""
    return any(
        each.__module__.partition(".")[0] == library and (not names or each.__name__ in names)
        for each in type(thing).__mro__
    )


def described(thing: object) -> str:
    """Return how a message names what was given: by its type, as it may hold a password."""
    return f"{type(thing).__module__.partition('.')[0]}.{type(thing).__qualname__}"


def driver_connection(given: Any) -> Any:
    """Return the driver's connection of a SQLAlchemy Connection or Session, in its transaction;
    anything else as it is.  Raises Invalid."""
    if is_a(given, "sqlalchemy", *_ASYNC_SESSIONS, "AsyncConnection"):
        raise Invalid(f"A {described(given)} is for interlock.open_async.")
    if is_a(given, "sqlalchemy", *_SESSIONS):
        given = given.connection()
    if not is_a(given, "sqlalchemy", "Connection"):
        return _joinable(given)
    if not given.in_transaction():
        given.begin()  # as its first statement would
    return given.connection.driver_connection


async def driver_connection_async(given: Any) -> Any:
    """The same for SQLAlchemy's AsyncConnection and AsyncSession."""
    if is_a(given, "sqlalchemy", *_ASYNC_SESSIONS):
        given = await given.connection()
    if not is_a(given, "sqlalchemy", "AsyncConnection"):
        return driver_connection(given)
    if not given.in_transaction():
        await given.begin()
    return (await given.get_raw_connection()).driver_connection


def _joinable(given: Any) -> Any:
    if is_a(given, "sqlalchemy") or is_a(given, "psycopg_pool"):
        raise Invalid(
            f"A {described(given)} has no transaction of its own. Join a connection of it, inside "
            "its transaction."
        )
    return given
