"""`interlock.cipher`: keys for each subject, and what is encrypted under them."""

from __future__ import annotations

import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

import interlock
from interlock.cipher import SQLiteKeys, SubjectCipher
from tests.facades import elsewhere

SECRET = "alice@example.com"


@pytest.fixture
def keys(tmp_path: Path) -> SQLiteKeys:
    return SQLiteKeys(tmp_path / "keys.db")


def test_a_ciphertext_belongs_to_its_key_and_subject(keys: SQLiteKeys) -> None:
    cipher = SubjectCipher(keys, lambda key: key.partition("/")[0])
    data = cipher.encrypt("alice/1", b"text")
    assert b"text" not in data
    assert data != cipher.encrypt("alice/1", b"text")
    assert cipher.decrypt("alice/1", data) == b"text"
    for key, changed in (
        *(("alice/2", data), ("bob/1", data), ("alice/1", data[:-1] + bytes([data[-1] ^ 1]))),
        *(("alice/1", b"\x02" + data[1:]), ("alice/1", data[:20]), ("alice/1", b"")),
    ):
        with pytest.raises((ValueError, LookupError, InvalidTag)):
            cipher.decrypt(key, changed)
    assert keys.get("bob", create=False) is None  # reading makes no key


def test_a_destroyed_key_is_in_no_byte_of_the_file(keys: SQLiteKeys, tmp_path: Path) -> None:
    key, other = keys.get("alice", create=True), keys.get("bob", create=True)
    assert key is not None
    assert key in (tmp_path / "keys.db").read_bytes()
    assert keys.destroy("alice")
    assert not keys.destroy("alice")
    assert not keys.destroy("nobody")
    assert all(key not in file.read_bytes() for file in tmp_path.iterdir())
    again = SQLiteKeys(tmp_path / "keys.db")
    for each in (keys, again):
        with pytest.raises(interlock.KeyDestroyed, match="'alice'"):
            each.get("alice", create=True)
        assert each.get("bob", create=False) == other


def test_only_the_owner_reads_the_keys(keys: SQLiteKeys, tmp_path: Path) -> None:
    assert (tmp_path / "keys.db").stat().st_mode & 0o777 == 0o600


def test_all_threads_get_one_key(keys: SQLiteKeys) -> None:
    start, found = threading.Barrier(4), []

    def get() -> None:
        start.wait()
        found.append(keys.get("alice", create=True))

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({*found}) == 1


def test_a_file_that_is_no_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_bytes(b"no database, " * 100)
    for path in (tmp_path / "keys.db", tmp_path / "missing" / "keys.db"):
        with pytest.raises(interlock.Unavailable, match="keys"):
            SQLiteKeys(path)


def test_keys_are_used_again_after_closing(keys: SQLiteKeys) -> None:
    key = keys.get("alice", create=True)
    keys.close()
    assert elsewhere(keys.get, "alice", create=False) == key
    keys.close()
    keys.close()


@pytest.mark.parametrize("named", ["", None, 7])
def test_a_subject_without_a_name_is_refused(keys: SQLiteKeys, named: Any) -> None:
    cipher = SubjectCipher(keys, lambda key: named)
    with interlock.open("sqlite://", agent="ann", cipher=cipher) as space:
        with pytest.raises(interlock.Invalid, match="of a subject"):
            space.create("a", 1)
        assert space.position() == 0
    with pytest.raises(interlock.Invalid, match="function"):
        SubjectCipher(keys, named)


def test_the_extra_is_named_where_it_is_missing(
    keys: SQLiteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(interlock.NotInstalled, match=r"interlock\[cipher\]"):
        SubjectCipher(keys, str)


def test_plaintext_is_in_no_byte_of_a_sqlite_file(keys: SQLiteKeys, tmp_path: Path) -> None:
    rules = {"found": interlock.merged("append")}
    folder = tmp_path / "store"
    folder.mkdir()
    cipher = SubjectCipher(keys, lambda key: "alice")
    with interlock.open(
        f"sqlite:///{folder / 'team.db'}", agent="ann", cipher=cipher, rules=rules
    ) as space:
        space.create("a", {"mail": SECRET})
        space.append_many("found", [SECRET] * 600)  # from 500 on the fold is kept
        space.files(tmp_path / "shop").update("a.txt", lambda text: SECRET)
        view = space.projection(lambda n, e: [e.value], initial=[])
        view.refresh()
        assert space.read("found").value == [SECRET] * 600
        assert all(SECRET.encode() not in file.read_bytes() for file in folder.iterdir())
    with sqlite3.connect(folder / "team.db") as connection:
        assert "$cipher" in str(connection.execute("SELECT body FROM log").fetchall())
    connection.close()


def test_what_is_joined_to_a_transaction_is_encrypted(keys: SQLiteKeys, tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    cipher = SubjectCipher(keys, lambda key: "alice")
    with interlock.open(f"sqlite:///{path}", agent="ann", cipher=cipher) as space:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with space.joined(connection) as inside:
            inside.create("a", SECRET)
            assert inside.read("a").value == SECRET
        connection.execute("COMMIT")
        assert SECRET not in str(connection.execute("SELECT * FROM log").fetchall())
        connection.close()
        assert space.read("a").value == SECRET


def test_a_fold_that_was_encrypted_can_be_erased_in_part(keys: SQLiteKeys) -> None:
    cipher = SubjectCipher(keys, lambda key: "alice")
    rules = {"found": interlock.merged("append")}
    with interlock.open("sqlite://", agent="ann", cipher=cipher, rules=rules) as space:
        space.append_many("found", [SECRET, "b"])
        space.erase(where=lambda entry: entry.value == SECRET)
        assert space.read("found").value == ["b"]
