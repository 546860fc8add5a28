"""Encryption of values with one key for each subject, so that destroying a key erases everywhere.

A subject is whoever the values are about: a customer, a patient, a tenant.  What was encrypted
under a key that is destroyed cannot be read any more: not in the store, its log, its replicas, its
exports, or any backup of them.  The keys are kept elsewhere, and so must their backups be.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Protocol

from interlock.backends.seal import Cipher
from interlock.errors import Invalid, KeyDestroyed, Unavailable
from interlock.extras import needs

__all__ = ["Cipher", "KeyDestroyed", "Keys", "SQLiteKeys", "SubjectCipher"]

_FORMAT = b"\x01"  # AES-256-GCM: a nonce of 12 bytes, the ciphertext, a tag of 16
_NONCE, _TAG, _KEY = 12, 16, 32
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    subject text PRIMARY KEY NOT NULL,
    key blob -- NULL: it was destroyed
) STRICT, WITHOUT ROWID
"""


class Keys(Protocol):
    """Where the keys of subjects are kept: 32 random bytes each.  Called by many threads."""

    def get(self, subject: str, create: bool) -> bytes | None:
        """Return the key of a subject, made now if there is none and `create`; None without.

        Raises KeyDestroyed where it was destroyed: a new one is never made in its place.
        """
        ...

    def destroy(self, subject: str) -> bool:
        """Destroy the key of a subject, for good.  Returns whether there was one."""
        ...


class SubjectCipher:
    """A cipher for `interlock.open(..., cipher=)`: AES-256-GCM with a key for each subject.

    `subject(key)` names the subject that the values of a key are about; of records of runs and
    breakers, too, whose keys begin with `$run/`, `$runs/` or `$breaker/`.  It must always give the
    same.  A ciphertext belongs to its key: moved to another one, it is refused.  Needs the extra
    `cipher`.

    Raises Invalid, NotInstalled.
    """

    def __init__(self, keys: Keys, subject: Callable[[str], str]) -> None:
        if not callable(subject):
            raise Invalid(f"subject={subject!r:.60} must be a function of a key.")
        with needs("cryptography", "cipher"):
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        self._keys, self._subject, self._algorithm = keys, subject, AESGCM

    def encrypt(self, key: str, text: bytes) -> bytes:
        """Return the ciphertext of a value of `key`.  Raises Invalid, KeyDestroyed."""
        found = self._keys.get(self._subject_of(key), create=True)
        assert found is not None
        nonce = os.urandom(_NONCE)
        return _FORMAT + nonce + self._algorithm(found).encrypt(nonce, text, key.encode())

    def decrypt(self, key: str, data: bytes) -> bytes:
        """Return what was encrypted for `key`.  Raises KeyDestroyed, or ValueError and others."""
        subject = self._subject_of(key)
        found = self._keys.get(subject, create=False)
        if found is None:
            raise LookupError(f"there is no key of subject {subject!r}")
        if data[:1] != _FORMAT or len(data) < 1 + _NONCE + _TAG:
            raise ValueError("it is in another format")
        nonce, sealed = data[1 : 1 + _NONCE], data[1 + _NONCE :]
        return self._algorithm(found).decrypt(nonce, sealed, key.encode())

    def _subject_of(self, key: str) -> str:
        subject = self._subject(key)
        if not isinstance(subject, str) or not subject:
            raise Invalid(f"subject({key!r}) returned {subject!r:.60}, not the name of a subject.")
        return subject


class SQLiteKeys:
    """Keys in a SQLite file, which is made where there is none, readable by its owner only.

    Keep it apart from the store and its backups: whoever has both can read everything, and a
    backup of the keys brings a destroyed one back.  `destroy` overwrites the key in the file.
    Several processes of one host may use it.  Raises Unavailable.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._lock = threading.Lock()
        self._pid = 0
        self._connection: sqlite3.Connection | None = None
        self._run("SELECT 1", ())

    def get(self, subject: str, create: bool) -> bytes | None:
        """Return the key of a subject.  Raises KeyDestroyed, Unavailable."""
        rows = self._run("SELECT key FROM keys WHERE subject = ?", (subject,))
        if not rows and create:
            fresh = os.urandom(_KEY)
            self._run("INSERT OR IGNORE INTO keys VALUES (?, ?)", (subject, fresh))
            rows = self._run("SELECT key FROM keys WHERE subject = ?", (subject,))
        if not rows:
            return None
        found: bytes | None = rows[0][0]
        if found is None:
            raise KeyDestroyed(f"The key of subject {subject!r} was destroyed.")
        return found

    def destroy(self, subject: str) -> bool:
        """Destroy the key of a subject, for good.  Returns whether there was one."""
        update = "UPDATE keys SET key = NULL WHERE subject = ? AND key IS NOT NULL RETURNING 1"
        return bool(self._run(update, (subject,)))

    def close(self) -> None:
        """Close the file.  It is opened again when it is needed."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _run(self, statement: str, values: tuple[object, ...]) -> list[tuple[bytes | None]]:
        try:
            with self._lock:
                return self._opened().execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as problem:
            raise Unavailable(f"The keys in {self.path} cannot be used: {problem}") from problem

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(
                self.path, timeout=20.0, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA secure_delete = ON").fetchall()
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
            self._connection, self._pid = connection, os.getpid()
        return self._connection
