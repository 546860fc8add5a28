"""From a store's URL to its backend, imported only then."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.backends.contract import Backend
from interlock.backends.redaction import check_server_url, redact_url
from interlock.backends.shared import Shared
from interlock.errors import Invalid

if TYPE_CHECKING:
    from interlock.core.transfer import Importing

_POSTGRES = ("postgresql", "postgres")  # with or without a driver, as SQLAlchemy spells them
_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
_HTTP = ("http", "https")  # a service: see `server/http`

_OTHERS: dict[str, Callable[..., Backend]] = {}


def register(scheme: str, make: Callable[..., Backend]) -> None:
    """Have `make(url, name, **options)` open the stores whose URLs begin with `scheme://`.

    `options` are `create`, `durability` and `busy_timeout` where they were given to
    `interlock.open`.
    """
    _OTHERS[scheme] = make


def open_backend(
    url: str | Shared,
    name: str,
    create: bool = True,
    importing: Importing | None = None,
    **options: Any,
) -> Backend:
    """Return the backend of space `name` in the store at `url`, or over what is shared.

    Raises Invalid and the faults.

    `create`: whether to make the store and the space where there are none.  `importing` opens the
    space for an import, and nobody else can open it until that is finished.

    Where the environment names a folder as INTERLOCK_RECORD, what it is asked is recorded there.
    """
    if importing is not None:
        options["importing"] = importing
    backend = _opened(url, name, create, **options)
    folder = os.environ.get("INTERLOCK_RECORD")
    if not folder:
        return backend
    from interlock.backends.trace import RecordingBackend

    try:
        return RecordingBackend(backend, folder)
    except BaseException:
        backend.close()
        raise


def open_store(url: str, create: bool = False, **options: Any) -> Backend:
    """Return the backend of the store at `url` as a whole, which answers `core.spaces`.

    `create`: whether to make it where there is none.  Raises Invalid and the faults.
    """
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    known = {name: value for name, value in options.items() if value is not None}
    if scheme == "sqlite" and separator:
        from interlock.backends.sqlite import SQLiteOptions
        from interlock.backends.sqlite.spaces import SQLiteStore

        return SQLiteStore(url, SQLiteOptions(**known), create)
    if scheme.partition("+")[0] in _POSTGRES and separator:
        from interlock.backends.postgres.spaces import PostgresStore
        from interlock.backends.remote import ServerOptions

        check_server_url(url)
        return PostgresStore(f"postgresql://{rest}", ServerOptions(**known), create)
    if scheme in _REDIS and separator:
        from interlock.backends.redis.spaces import RedisStore
        from interlock.backends.remote import ServerOptions

        check_server_url(url)
        return RedisStore(url, ServerOptions(**known))
    if separator and scheme in (*_OTHERS, *_HTTP):
        raise Invalid(f"A store of {scheme}:// has no operations on whole spaces.")
    raise no_store_url(url)


def schema_sql(url: str) -> str:
    """Return the SQL that makes an empty store at `url`, for whoever may run it by hand.

    Nothing is opened.  Raises Invalid: a store in Redis has no schema.
    """
    scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if scheme == "sqlite" and separator:
        from interlock.backends.sqlite.connect import creation

        return creation()
    if scheme.partition("+")[0] in _POSTGRES and separator:
        from interlock.backends.postgres import connect

        return connect.creation()
    if scheme in _REDIS and separator:
        raise Invalid("A store in Redis has no schema: there is nothing to make by hand.")
    raise no_store_url(url)


def no_store_url(url: object) -> Invalid:
    """The refusal of what is no URL of a store."""
    safe = redact_url(url)
    if not isinstance(url, str):
        return Invalid(f"{safe} is not a store URL. Example: sqlite:///team.db")
    bare = "://" not in url and safe == url
    hint = f" Did you mean 'sqlite:///{safe}'?" if bare else ""
    return Invalid(f"{safe!r} is not a store URL.{hint or ' Example: sqlite:///team.db'}")


def _opened(
    url: str | Shared, name: str, create: bool, importing: Importing | None = None, **options: Any
) -> Backend:
    if isinstance(url, Shared) and importing is None:
        return url.open(name, create, {k: v for k, v in options.items() if v is not None})
    if not isinstance(url, str):
        raise no_store_url(url)
    scheme, separator, rest = url.partition("://")
    known = {name: value for name, value in options.items() if value is not None}
    if scheme == "sqlite" and separator:
        from interlock.backends.sqlite import SQLiteBackend, SQLiteOptions

        return SQLiteBackend(url, name, SQLiteOptions(**known), create=create, importing=importing)
    if scheme.partition("+")[0] in _POSTGRES and separator:
        from interlock.backends.postgres import PostgresBackend
        from interlock.backends.remote import ServerOptions

        check_server_url(url)
        return PostgresBackend(
            f"postgresql://{rest}", name, ServerOptions(**known), create, importing
        )
    if scheme in _REDIS and separator:
        from interlock.backends.redis import RedisBackend
        from interlock.backends.remote import ServerOptions

        check_server_url(url)
        return RedisBackend(url, name, ServerOptions(**known), create, importing)
    if scheme in _HTTP and separator and importing is None:
        from interlock.backends.http import HTTPBackend
        from interlock.backends.remote import ServerOptions

        return HTTPBackend(url, name, ServerOptions(**known), create)
    if separator and (make := _OTHERS.get(scheme)) is not None and importing is None:
        return make(url, name, **known, **({} if create else {"create": False}))
    raise no_store_url(url)
