"""What one page of a large space costs: counted in requests and records, which time is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import interlock
from interlock.core.records import Snapshot
from interlock.core.requests import Load, LoadAt, LogPage, ReadLog, Request
from interlock.core.spaces import ListSpaces
from interlock.server import app
from interlock.server.http import log, records

_KEYS = 200


class Counted:
    """What a space asked its store for."""

    def __init__(self, space: interlock.AsyncSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = space.session.driver.backend
        perform = backend.perform_async
        self.records = self.entries = 0
        self.asked: list[Request[Any]] = []

        async def perform_async(request: Request[Any]) -> Any:
            answer = await perform(request)
            self.asked.append(request)
            if isinstance(answer, Snapshot):
                self.records += len(answer.records) + sum(map(len, answer.scans.values()))
            elif isinstance(answer, LogPage):
                self.entries += len(answer.entries)
            return answer

        monkeypatch.setattr(backend, "perform_async", perform_async)


@asynccontextmanager
async def asking(*sources: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app(*sources))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def space() -> AsyncIterator[interlock.AsyncSpace]:
    """A space of which each key was written twice, each fourth was deleted, and the last is new."""
    async with interlock.open_async("sqlite://", space="main", agent="us") as found:
        for _ in range(2):
            async with found.transaction() as tx:
                for key, record in (
                    await tx.read_many(map("k/{:03}".format, range(_KEYS)))
                ).items():
                    tx.write(record, key)
        async with found.transaction() as tx:
            for n in range(0, _KEYS, 4):
                tx.delete(await tx.read(f"k/{n:03}"))
        await found.create("new", 1)
        yield found


async def pages(client: httpx.AsyncClient, path: str, cursor: str) -> AsyncIterator[Any]:
    """Yield the pages of something: `cursor` is the parameter that each names for the next."""
    page: dict[str, Any] = {"more": True, f"next_{cursor}": None}
    while page["more"]:
        at = page[f"next_{cursor}"]
        page = (
            await client.get(
                f"/v1/spaces/main/{path}&{cursor}={at}" if at else f"/v1/spaces/main/{path}"
            )
        ).json()
        yield page


async def test_a_page_of_a_moment_reads_no_more_than_it_shows(
    space: interlock.AsyncSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_STEP_THEN", 10)
    async with asking(space) as client:
        counted, found = Counted(space, monkeypatch), []
        async for page in pages(client, f"records?position={2 * _KEYS}&limit=10", "after"):
            assert counted.records <= 30, counted.records
            counted.records = 0
            found += [(each["key"], each["version"]) for each in page["records"]]
    assert found == [(f"k/{n:03}", 2) for n in range(_KEYS)]


async def test_a_page_of_a_moment_ends_where_little_existed(
    space: interlock.AsyncSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_STEP_THEN", 10)
    monkeypatch.setattr(records, "_MOST_THEN", 50)
    async with asking(space) as client:
        counted, found, times = Counted(space, monkeypatch), [], 0
        async for page in pages(client, "records?position=0&limit=10", "after"):
            assert counted.records <= 60, counted.records
            counted.records, times = 0, times + 1
            found += page["records"]
    assert (found, times) == ([], 5)


async def test_a_stream_of_a_moment_is_of_that_moment(space: interlock.AsyncSpace) -> None:
    async with asking(space) as client:
        path = f"/v1/spaces/main/records?position={_KEYS}&values=false"
        lines = (await client.get(path, headers={"Accept": "application/x-ndjson"})).text
    assert lines.count('"version":1,') == lines.count("\n") == _KEYS


@pytest.mark.parametrize("query", ["agent=nobody", "prefix=k/000", "kinds=append", ""])
async def test_a_page_of_the_log_looks_at_so_much_only(
    space: interlock.AsyncSpace, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setattr(log, "_MOST_LOOKED_AT", 100)
    everything = [each async for each in space.log()]
    expected = {
        "agent=nobody": [],
        "prefix=k/000": [e.position for e in everything if e.key == "k/000"],
        "kinds=append": [],
        "": [e.position for e in everything],
    }[query]
    async with asking(space) as client:
        counted = Counted(space, monkeypatch)
        for cursor, order, way in (("after", "", 1), ("before", "&newest_first=true", -1)):
            found = []
            async for page in pages(client, f"log?limit=20&{query}{order}", cursor):
                assert counted.entries <= 110, counted.entries
                counted.entries = 0
                found += [each["position"] for each in page["entries"]]
            assert found == expected[::way]


async def test_a_page_of_the_log_of_the_web_page_is_one_of_its_place(
    space: interlock.AsyncSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(space) as client:
        counted = Counted(space, monkeypatch)
        shown = (await client.get("/ui/main?before=150")).text
    assert 'href="?before=50&amp;' in shown
    assert counted.entries <= 160, counted.entries
    assert not [e for e in counted.asked if isinstance(e, Load | LoadAt) and e.prefixes]
    assert all(each.after < 150 for each in counted.asked if isinstance(each, ReadLog))


async def test_spaces_are_named_without_a_look_into_them(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    for name in ("b", "a"):
        async with interlock.open_async(url, name) as made:
            await made.create("k", 1)
    from interlock.backends.sqlite.spaces import SQLiteStore

    def counting(self: object, request: ListSpaces) -> None:
        raise AssertionError("it counts keys")

    monkeypatch.setattr(SQLiteStore, "_list", counting)
    async with asking(url) as client:
        assert (await client.get("/v1/spaces")).json() == {"spaces": ["a", "b"]}
