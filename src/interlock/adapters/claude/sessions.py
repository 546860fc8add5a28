"""The session store of the Claude Agent SDK: transcripts that several hosts share.

Under `claude-agent/<project>/` a space keeps `session/<session>`, one for each transcript, with
the summary that the SDK makes of it; `subkey/<session>/<subpath>`, one for each transcript of a
subagent; and below `entry/` the entries, each under its uuid, with its number.
"""

from __future__ import annotations

import uuid
from typing import Any

from interlock import AsyncSpace, AsyncTx, Invalid, Json, Record, Space
from interlock.adapters.home import Closing
from interlock.adapters.space import erase_deleted, quoted, run_async
from interlock.extras import needs

with needs("The Claude Agent SDK", "claude-agent"):
    import claude_agent_sdk
    from claude_agent_sdk import (
        SessionKey,
        SessionListSubkeysKey,
        SessionStoreEntry,
        SessionStoreListEntry,
        SessionSummaryEntry,
        fold_session_summary,
    )

_LONGEST = 100  # characters of a name in a key


class _Keys:
    """The keys of a transcript."""

    def __init__(self, key: SessionKey | SessionListSubkeysKey) -> None:
        project, session = _name(key, "project_key"), _name(key, "session_id")
        base, given = f"claude-agent/{project}", key.get("subpath")
        self.subpath = "" if given is None else str(given)
        self.session = f"{base}/session/{session}"
        self.subkeys = f"{base}/subkey/{session}/"
        self.whole = f"{base}/entry/{session}/"
        self.head, self.entries = self.session, f"{self.whole}main/"
        if self.subpath:
            name = quoted(self.subpath, _LONGEST)
            self.head, self.entries = f"{self.subkeys}{name}", f"{self.whole}sub/{name}/"


class SessionStore(Closing, claude_agent_sdk.SessionStore):
    """A session store in a space, or at a URL, which is opened until `close` (`space` and `agent`
    are those of `interlock.open`): `ClaudeAgentOptions(session_store=SessionStore(url))`.

    An entry that is delivered again is stored once, by its uuid, however many processes deliver it;
    entries without a uuid are always added.  A batch is stored whole or not at all.

    `erase`: what is deleted is taken out of the log, too.  Raises Interlock's refusals and faults;
    the SDK tries again, and then reports a `MirrorErrorMessage`.
    """

    def __init__(
        self,
        where: str | Space | AsyncSpace,
        *,
        space: str = "default",
        agent: str | None = None,
        erase: bool = False,
    ) -> None:
        self._open(where, space, agent)
        self._erases = erase

    async def append(self, key: SessionKey, entries: list[SessionStoreEntry]) -> None:
        """Add entries that are not there yet.  Raises Invalid if one is too large, or no JSON."""
        keys = _Keys(key)
        named: dict[str, SessionStoreEntry] = {}
        for entry in entries:
            named.setdefault(f"{keys.entries}{_entry_name(entry)}", entry)

        async def add(tx: AsyncTx) -> None:
            there = await tx.read_many([keys.head, *named])
            new = {name: entry for name, entry in named.items() if not there[name].exists}
            head = there[keys.head]
            count = head.value["entries"] if head.exists else 0
            for number, (name, entry) in enumerate(new.items(), count):
                await tx.write(there[name], {"number": number, "entry": entry})
            if new:
                about = _about(keys, key, head, [*new.values()])
                await tx.write(head, {"entries": count + len(new), **about})

        if named:
            await run_async(self._space, self._calls.transact(add))

    async def load(self, key: SessionKey) -> list[SessionStoreEntry] | None:
        """Return the entries, in the order in which they were stored; None if there are none."""
        found = await run_async(self._space, self._calls.scan(_Keys(key).entries))
        ordered = sorted((each.value for each in found.values()), key=lambda each: each["number"])
        return [each["entry"] for each in ordered] or None

    async def list_sessions(self, project_key: str) -> list[SessionStoreListEntry]:
        """Return the sessions of a project, with the time of their last entry."""
        heads = await self._heads(project_key)
        return [{"session_id": each.value["session"], "mtime": _mtime(each)} for each in heads]

    async def list_session_summaries(self, project_key: str) -> list[SessionSummaryEntry]:
        """Return what the SDK shows of the sessions of a project."""
        return [_summary(each) for each in await self._heads(project_key)]

    async def delete(self, key: SessionKey) -> None:
        """Delete a session with the transcripts of its subagents, or one of these."""
        keys = _Keys(key)
        prefixes = [keys.entries] if keys.subpath else [keys.whole, keys.subkeys]

        async def delete(tx: AsyncTx) -> None:
            head = await tx.read(keys.head)
            if head.exists:
                await tx.delete(head)
            for prefix in prefixes:
                for record in (await tx.scan(prefix)).values():
                    await tx.delete(record)

        async def whole() -> None:
            await self._calls.transact(delete)
            if self._erases:
                await erase_deleted(self._calls, keys.head, *prefixes)

        await run_async(self._space, whole())

    async def list_subkeys(self, key: SessionListSubkeysKey) -> list[str]:
        """Return the subpaths of a session."""
        found = await run_async(self._space, self._calls.scan(_Keys(key).subkeys))
        return [record.value["subpath"] for record in found.values()]

    async def _heads(self, project_key: str) -> list[Record]:
        prefix = f"claude-agent/{quoted(project_key, _LONGEST)}/session/"
        return [*(await run_async(self._space, self._calls.scan(prefix))).values()]


def _name(key: Any, part: str) -> str:
    given = key.get(part)
    if not isinstance(given, str):
        raise Invalid(f"{part}={given!r:.60} must be a str.")
    return quoted(given, _LONGEST)


def _entry_name(entry: SessionStoreEntry) -> str:
    given = entry.get("uuid")
    return quoted(given, _LONGEST) if isinstance(given, str) else f"{uuid.uuid4().hex}~"


def _about(keys: _Keys, key: SessionKey, head: Record, new: list[Any]) -> dict[str, Json]:
    """Return what the head of a transcript says of it, with new entries."""
    if keys.subpath:
        return {"subpath": keys.subpath}
    folded = fold_session_summary(_summary(head) if head.exists else None, key, new)
    return {"session": key["session_id"], "summary": folded["data"]}


def _summary(head: Record) -> SessionSummaryEntry:
    value = head.value
    return {"session_id": value["session"], "mtime": _mtime(head), "data": value["summary"]}


def _mtime(head: Record) -> int:
    assert head.at is not None
    return int(head.at.timestamp() * 1000)
