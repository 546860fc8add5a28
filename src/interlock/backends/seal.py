"""Values on their way through a driver: encrypted before a store sees them, decrypted after.

So protocols compare and merge what is meant, and stores keep JSON text as ever.  What a store
compares of a commit that is sent again are keys and kinds, so a new ciphertext of the same value
is no other operation.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

from interlock.core.group import Deliveries
from interlock.core.keys import decode
from interlock.core.plan import Write
from interlock.core.records import Committed, Entry, Record, Snapshot, Tail
from interlock.core.refusals import Conflict, described
from interlock.core.requests import (
    Commit,
    Grant,
    LoadProjection,
    LogPage,
    Place,
    ReadValues,
    Redact,
    Request,
    SaveFold,
    SaveProjection,
    Trim,
    ValuePage,
)
from interlock.core.sealed import BEGINNING, MARK, is_sealed, is_secret, no_cipher
from interlock.core.struct import Json
from interlock.errors import Corrupt, Invalid, KeyDestroyed, raise_refusal

Row = TypeVar("Row", Record[Any], Entry[Any])
# A projection holds values of many keys: kept, it would outlive the key of one of them.
_NEVER_KEPT = (SaveProjection, LoadProjection)


class Cipher(Protocol):
    """What encrypts the values of a space: `interlock.open(..., cipher=)`.

    Both are called in the caller's thread, or in the event loop, and have to be quick.
    """

    def encrypt(self, key: str, text: bytes) -> bytes:
        """Return the ciphertext of `text`, the JSON of a value of `key`.

        Raises KeyDestroyed where that cannot be encrypted any more.
        """
        ...

    def decrypt(self, key: str, data: bytes) -> bytes:
        """Return what `encrypt` was given for this key.

        Raises KeyDestroyed where it is gone for good: the value then reads as erased.  Anything
        else that it raises says that it is not a ciphertext of this key: Corrupt.
        """
        ...


class Seal(NamedTuple):
    """What a driver does to requests and answers.  Without a cipher it refuses what is encrypted,
    so that nobody takes a ciphertext for a value."""

    cipher: Cipher | None = None

    # Requests

    def closed(self, request: Request[Any]) -> Request[Any]:
        """Return a request with its values encrypted.  Raises Invalid."""
        if self.cipher is None:
            if isinstance(request, Commit):
                for write in request.plan.writes:
                    _check_plain(write)
            return request
        if isinstance(request, Commit):
            writes = tuple(map(self._write, request.plan.writes))
            return Commit(request.plan._replace(writes=writes))
        if isinstance(request, _NEVER_KEPT):
            raise Invalid(
                "With a cipher a projection is not kept under a name: it would still hold the "
                "values of a subject whose key is destroyed. Leave out name=."
            )
        if isinstance(request, SaveFold):
            return request.replace(body=self._closed(request.key, request.body))
        if isinstance(request, Trim):
            return request.replace(folds=tuple((k, self._closed(k, b)) for k, b in request.folds))
        if isinstance(request, Redact):
            bases = ((key, at, body and self._closed(key, body)) for key, at, body in request.bases)
            return request.replace(bases=tuple(bases))
        return request

    def _write(self, write: Write) -> Write:
        if write.body is None:
            return write
        return write._replace(body=self._closed(write.key, write.body))

    def _closed(self, key: str, body: str) -> str:
        if self.cipher is None or not is_secret(key):
            return body
        data = self.cipher.encrypt(key, body.encode())
        return f'{BEGINNING}{b2a_base64(data, newline=False).decode("ascii")}"}}'

    # Answers

    def opened(self, request: Request[Any], answer: Any) -> Any:
        """Return the answer to a request (as it was before it was closed) with its values
        decrypted.  Raises Invalid, Corrupt."""
        if isinstance(answer, Committed) and isinstance(request, Commit) and not answer.replayed:
            if self.cipher is None:
                return answer
            pairs = zip(answer.writes, request.plan.writes, strict=True)
            return answer._replace(writes=tuple(w._replace(body=p.body) for w, p in pairs))
        if isinstance(answer, ValuePage) and isinstance(request, ReadValues):
            return self._values(answer, request.key)
        opener = _OPENERS.get(type(answer))
        return answer if opener is None else opener(self, answer)

    def _snapshot(self, snapshot: Snapshot) -> Snapshot:
        rows = chain(snapshot.records.values(), *snapshot.scans.values())
        if snapshot.applied is None and not any(map(_is_concerned, rows)):
            return snapshot
        records = {key: self._row(record) for key, record in snapshot.records.items()}
        scans = {prefix: tuple(map(self._row, s)) for prefix, s in snapshot.scans.items()}
        applied = snapshot.applied and self._committed(snapshot.applied)
        return snapshot._replace(records=records, scans=scans, applied=applied)

    def _committed(self, committed: Committed) -> Committed:
        writes = (w._replace(body=self._text(w.key, w.body)) for w in committed.writes)
        return committed._replace(writes=tuple(writes))

    def _conflict(self, refusal: Conflict) -> Conflict:
        return refusal.replace(record=self._row(refusal.record))

    def _place(self, place: Place) -> Place:
        return place._replace(snapshot=self._snapshot(place.snapshot))

    def _grant(self, grant: Grant) -> Grant:
        return grant._replace(records=tuple(map(self._row, grant.records)))

    def _page(self, page: LogPage) -> LogPage:
        if not any(type(entry[5]) is dict and MARK in entry[5] for entry in page.entries):
            return page
        return page._replace(entries=[*map(self._row, page.entries)])

    def _values(self, page: ValuePage, key: str) -> ValuePage:
        if MARK not in page.lines:
            return page
        texts = (self._text(key, line) for line in page.lines.split("\n"))
        return page._replace(lines="\n".join(text for text in texts if text is not None))

    def _deliveries(self, dealt: Deliveries) -> Deliveries:
        items = (each._replace(entry=self._row(each.entry)) for each in dealt.items)
        return dealt._replace(items=tuple(items))

    def _row(self, row: Row) -> Row:
        """Return a record or an entry with its value; erased where its key was destroyed."""
        if isinstance(row.value, Tail):
            return self._merged(row, row.value)
        if not is_sealed(row.value):
            return row
        text = self._decrypted(row.key, row.value)
        if text is None:
            return _erased(row)
        row = row._replace(value=decode(text))
        return row._replace(body=text) if isinstance(row, Record) else row

    def _merged(self, row: Row, tail: Tail) -> Row:
        """Return the record of a merged key with what can be decrypted of its contributions."""
        base = self._text(row.key, tail.base)
        if BEGINNING not in tail.items:
            items, length = tail.items, tail.length
        else:
            texts = [self._decrypted_item(row.key, item) for item in decode(tail.items)]
            left = [text for text in texts if text is not None]
            items, length = f"[{','.join(left)}]", len(left)
        gone = base is None and not length and (tail.base is not None or tail.length > 0)
        return (
            _erased(row)
            if gone
            else row._replace(value=tail._replace(base=base, items=items, length=length))
        )

    def _decrypted_item(self, key: str, item: Json) -> str | None:
        return self._decrypted(key, item) if is_sealed(item) else _text_of(item)

    def _text(self, key: str, body: str | None) -> str | None:
        """Return the JSON text of a value, None where its key was destroyed."""
        if body is None or not body.startswith(BEGINNING):
            return body
        value = decode(body)
        return self._decrypted(key, value) if is_sealed(value) else body

    def _decrypted(self, key: str, value: Mapping[str, str]) -> str | None:
        if self.cipher is None:
            raise_refusal(no_cipher(key))
        try:
            return self.cipher.decrypt(key, a2b_base64(value[MARK])).decode()
        except KeyDestroyed:
            return None
        except Exception as problem:
            raise Corrupt(
                f"The value of {key!r} cannot be decrypted ({described(problem)}): it was "
                "encrypted with another key, or for another name, or was changed."
            ) from problem


_OPENERS: Mapping[type[Any], Callable[[Seal, Any], Any]] = {
    Snapshot: Seal._snapshot,
    Committed: Seal._committed,
    Conflict: Seal._conflict,
    Place: Seal._place,
    Grant: Seal._grant,
    LogPage: Seal._page,
    Deliveries: Seal._deliveries,
}


def _check_plain(write: Write) -> None:
    body = write.body
    if body is not None and body.startswith(BEGINNING) and is_sealed(decode(body)):
        raise Invalid(f"An object whose only field is {MARK!r} is what encrypted values are.")


def _is_concerned(row: Record[Any]) -> bool:
    return type(row.value) is Tail or is_sealed(row.value)


def _erased(row: Row) -> Row:
    row = row._replace(value=None, expires_us=0, erased=True)
    return row._replace(exists=False, body=None) if isinstance(row, Record) else row


def _text_of(item: Json) -> str:
    from interlock.core.transfer import text_of  # only where a merged key was encrypted later

    return text_of(item)
