"""After an erasure the text is in no byte of the file, nor of the write-ahead log."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.core import erase

RULES = {"found/*": interlock.merged("append")}
SECRET = "alice@example.com"


def chosen(entry: interlock.Entry) -> bool:
    return SECRET in str(entry.value)


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


@pytest.fixture
def space(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with interlock.open(url, agent="ann", rules=RULES) as opened:
        yield opened


def test_the_text_is_nowhere_in_the_files(space: Any, tmp_path: Path) -> None:
    """After what moves values in the file: splits of pages, folds, projections."""
    drawn = random.Random(7)
    view = space.projection(
        lambda value, entry: [*value, entry.value][-20:], initial=[], name="last", snapshot_every=9
    )
    records: dict[str, Any] = {}
    for n in range(400):
        text = f"{SECRET} {n} " + "x" * drawn.choice((0, 50, 900, 5000))
        value = text if drawn.random() < 0.5 else n
        if drawn.random() < 0.5:
            space.append(f"found/{drawn.randrange(3)}", value)
        else:
            key = f"c/{drawn.randrange(40)}"
            record = records.get(key)
            records[key] = space.create(key, value) if not record else space.write(record, value)
        if n % 50 == 0:
            view.refresh()
            space.scan()
    assert bytes_of(tmp_path).count(SECRET.encode()) > 100
    space.erase(where=chosen)
    assert bytes_of(tmp_path).count(SECRET.encode()) == 0


def test_what_an_open_snapshot_holds_is_not_called_gone(
    space: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "_PAUSES", 2)
    space.create("a", SECRET)
    reader = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM log").fetchone()
    with pytest.raises(interlock.Contended, match="old snapshot") as problem:
        space.erase("a")
    assert problem.value.retryable
    reader.close()
    assert space.erase("a").keys == ()
    assert bytes_of(tmp_path).count(SECRET.encode()) == 0
