"""How a space is opened: `interlock.open`."""

from __future__ import annotations

from collections.abc import Mapping

from interlock._sync.space import Space
from interlock.backends.drive import SyncDriver
from interlock.backends.seal import Cipher, Seal
from interlock.backends.shared import source
from interlock.backends.urls import open_backend
from interlock.core.rules import Rule
from interlock.observe.observer import SLOW_COMMIT, Observer
from interlock.session import Session
from interlock.settings import check_cipher, check_slow_commit, make_writer


def open(  # reads as interlock.open
    url: str | None = None,
    space: str = "default",
    agent: str | None = None,
    *,
    connection: object = None,
    rules: Mapping[str, Rule] | None = None,
    exclusive: bool = False,
    create: bool = True,
    durability: str | None = None,
    busy_timeout: float | None = None,
    max_value_bytes: int | None = None,
    slow_commit: float | None = SLOW_COMMIT,
    cipher: Cipher | None = None,
) -> Space:
    """Open `space` in the store at `url`, making both where they do not exist yet.

    With `create=False` nothing is made: Unavailable is raised where either is not there.

    `url`: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` (in memory, for tests);
    `?mode=ro` opens a file read-only.  `postgresql://user@host/db` needs the extra `postgres`, and
    `redis://`, `rediss://` and `redis+cluster://` the extra `redis`.  `agent` is the name that
    commits are logged under (default: host and process id).  `durability` is `full` (default),
    `normal` (a crash of the machine may lose the last commits) or `off` (in SQLite the same as
    `normal`); Redis is as durable as the server is set up.  `busy_timeout`: seconds to wait for
    another process that is writing, for a connection or a server that is not ready (20).
    `max_value_bytes`: limit of a value's JSON (1 MiB).  `slow_commit`: seconds from which a commit
    is logged as slow (1.0; None: none is).

    `connection`, in place of a URL, is what the application has: a psycopg pool, a psycopg
    connection in autocommit, a SQLAlchemy engine over psycopg or sqlite3, a sqlite3 connection, or
    a `redis.Redis`.  The space shares it (of SQLite, the file) and never closes it.  With
    `open_async` it is the asyncio kind of each.

    `exclusive` takes the agent's name over from any other process that uses it: what such a
    process commits from then on is refused with Fenced.  `rules` maps patterns of keys to rules
    such as `interlock.merged("append")`; they are stored, added to those that the space has.

    `cipher` encrypts values before they reach the store, and decrypts them: an object with
    `encrypt` and `decrypt`, such as `interlock.cipher.SubjectCipher`.  Keys, agents, rules and
    times are not encrypted, and named projections are not stored.

    Raises Invalid, Unavailable, Corrupt or IncompatibleStore.
    """
    check_slow_commit(slow_commit)
    check_cipher(cipher)
    make_writer("", space, agent, max_value_bytes)  # refuse bad names before a file is made
    where = source(url, connection)
    backend = open_backend(where, space, create, durability=durability, busy_timeout=busy_timeout)
    writer = make_writer(backend.uid, space, agent, max_value_bytes)
    observer = Observer(backend.name, slow_commit)
    session = Session(SyncDriver(backend, observer, Seal(cipher)), writer)
    opened = Space(session)
    try:
        session.run(session.entering(exclusive, rules))
    except BaseException:
        opened.close()
        raise
    return opened
