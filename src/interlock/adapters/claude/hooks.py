"""Hooks of Claude Code: a file is written only by an agent that has read what it holds now.

An agent is a session, or a subagent of one.  Under `claude-code/` a space keeps
`seen/<session>/<agent>/<file>`, the digest of the content that the agent knows;
`reading/<session>/<agent>/<call>`, that of a file that it is about to read; `claim/<file>`, whose
edit is under way; and `file/<file>`, what was last written under a claim.  The names are digests;
the values say which agent and file.

Each event starts a process, so this imports nothing that takes long.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from interlock import Conflict, Invalid, Json, Record, Space, Tx

_PATHS = {
    "Read": "file_path",
    "Edit": "file_path",
    "MultiEdit": "file_path",
    "Write": "file_path",
    "NotebookEdit": "notebook_path",
}
TOOLS = "|".join(_PATHS)
ENDS = ("Stop", "SubagentStop", "SessionEnd")  # of what an agent, or a session, does
ABSENT = ""  # the digest of no file
_MOST_SHOWN = 8_000  # characters of a file in a refusal; Claude Code cuts what is longer
_REMEMBERED = 7 * 86_400.0  # seconds
_READING = 3_600.0
_POLL = 0.05


class _Call(NamedTuple):
    """A call of a tool on a file, by an agent, and the keys that it is about."""

    agent: str
    path: str
    shown: str  # the path as people know it
    reading: str
    seen: str
    claim: str
    file: str

    def holds(self, claim: Record) -> bool:
        """Whether a claim is of this agent."""
        return claim.exists and claim.value["agent"] == self.agent

    def value(self, **more: Json) -> dict[str, Json]:
        return {"agent": self.agent, "path": self.path, **more}


class FileHooks:
    """What the hooks for files answer, in a space from `interlock.open`.

    `answer(event)` is for a command, `hook` for the Claude Agent SDK:
    `HookMatcher(hooks=[FileHooks(space, project).hook])`, for the events that `events()` names.

    `project`: the folder that `watch` is relative to.  `watch`: patterns such as `CLAUDE.md` or
    `docs/*` of the files to guard (none: all).  `ttl`: seconds after which the claim of an agent
    that died is void.  `wait`: seconds to wait for the claim of another agent.
    """

    def __init__(
        self,
        space: Space,
        project: str,
        *,
        watch: Iterable[str] = (),
        ttl: float = 120.0,
        wait: float = 5.0,
    ) -> None:
        if not isinstance(space, Space):
            raise Invalid("FileHooks needs a space from interlock.open.")
        self._space = space
        self._project = os.path.realpath(project)
        self._watch = tuple(watch)
        self._ttl = ttl
        self._wait = wait

    @staticmethod
    def events() -> dict[str, str | None]:
        """Return the events to call this for, each with its matcher of tools."""
        names = ("PreToolUse", "PostToolUse", "PostToolUseFailure")
        return dict.fromkeys(names, TOOLS) | dict.fromkeys(ENDS)

    async def hook(self, event: Any, tool_use_id: str | None = None, context: Any = None) -> Any:
        """Answer an event, as a hook of the Claude Agent SDK.  Raises what the store raises."""
        import asyncio

        from interlock.cancellation import finish

        return await finish(asyncio.to_thread(self.answer, event)) or {}

    def answer(self, event: Mapping[str, Any]) -> dict[str, Json] | None:
        """Return the answer to an event, None if there is nothing to say.

        Raises InterlockError if the store is away, OSError if a file can't be read.
        """
        name = event.get("hook_event_name")
        if name in ENDS:
            self._end(*_agent(event), whole=name == "SessionEnd")
            return None
        kind = "read" if event.get("tool_name") == "Read" else "write"
        does = {
            ("PreToolUse", "read"): self._before_read,
            ("PostToolUse", "read"): self._after_read,
            ("PreToolUse", "write"): self._before_write,
            ("PostToolUse", "write"): self._after_write,
            ("PostToolUseFailure", "write"): self._release,
        }.get((str(name), kind))
        call = self._call(event) if does else None
        return does(call) if does and call else None

    def _call(self, event: Mapping[str, Any]) -> _Call | None:
        """Return the call of a tool on a file that is watched, None if it is none."""
        given = event.get("tool_input")
        asked = given.get(_PATHS.get(str(event.get("tool_name")), "")) if given else None
        if not asked or not isinstance(asked, str):
            return None
        path = os.path.realpath(os.path.join(str(event.get("cwd") or self._project), asked))
        inside = path.startswith(self._project.rstrip("/") + "/")
        shown = os.path.relpath(path, self._project) if inside else path
        names = (shown, os.path.basename(path))
        if self._watch and not any(fnmatchcase(n, each) for n in names for each in self._watch):
            return None
        if os.path.isdir(path):
            return None
        session, agent = _agent(event)
        who, file, call = (
            f"{_short(session)}/{_short(agent)}",
            _short(path),
            event.get("tool_use_id"),
        )
        return _Call(
            agent,
            path,
            shown,
            reading=f"claude-code/reading/{who}/{_short(str(call or path))}",
            seen=f"claude-code/seen/{who}/{file}",
            claim=f"claude-code/claim/{file}",
            file=f"claude-code/file/{file}",
        )

    def _before_read(self, call: _Call) -> None:
        """Note what the file holds before it is read: what is read is at least as new."""
        digest = _digest(_content(call.path))
        if digest != self._seen(call):
            self._space.update(call.reading, lambda _: call.value(digest=digest), expires=_READING)

    def _after_read(self, call: _Call) -> None:
        def learn(tx: Tx) -> None:
            noted = tx.read(call.reading)
            if noted.exists:
                _know(tx, call, noted.value["digest"])
                tx.delete(noted)

        self._space.transact(learn)

    def _before_write(self, call: _Call) -> dict[str, Json] | None:
        """Claim the file; refuse the call if another agent has it, or it is not as was read."""
        other = self._claim(call)
        if other is not None:
            reason = (
                f"{call.shown} is being written by another agent ({other.value['agent']}). "
                "Nothing was written. Read the file again, then repeat your change on what it "
                "holds."
            )
            return _denied(reason)
        data, seen = _content(call.path), self._seen(call)
        if _digest(data) == seen:
            return None
        reason = self._stale(call, data, seen)
        self._release(call)
        if data is None:  # whoever learns that it is gone knows all of it
            self._space.transact(lambda tx: _know(tx, call, ABSENT))
        return _denied(reason)

    def _claim(self, call: _Call) -> Record | None:
        """Claim the file.  Returns the claim of another agent, if that does not end in time."""
        until = time.monotonic() + self._wait
        while True:
            found = self._space.read(call.claim)
            try:
                if not found.exists or call.holds(found) or self._is_void(found):
                    self._space.write(found, call.value(call=call.reading, ttl=self._ttl))
                    return None
            except Conflict:
                continue
            if time.monotonic() >= until:
                return found
            time.sleep(_POLL)

    def _is_void(self, claim: Record) -> bool:
        """Whether the agent that has a claim has not been heard of for too long."""
        assert claim.at is not None
        ttl: float = claim.value["ttl"]
        return (self._space.time() - claim.at).total_seconds() > ttl

    def _stale(self, call: _Call, data: bytes | None, seen: str) -> str:
        """Return why a write is refused, with what the file holds now."""
        if data is None:
            return (
                f"{call.shown} has been deleted since you read it. Nothing was written. "
                "Write it again only if it should exist."
            )
        last = self._space.read(call.file)
        known = last.exists and last.value["digest"] == _digest(data)
        writer = last.value["agent"] if known else "a program that does not use these hooks"
        what = "has changed since you read it" if seen else "was not read in this session"
        text = data.decode(errors="replace")
        # What it has never read may be a file that the agent is not allowed to read.
        shown = f" It now holds:\n\n{text}" if seen and len(text) <= _MOST_SHOWN else ""
        return (
            f"{call.shown} {what}; it was last written by {writer}. Nothing was written. "
            f"Read the file again, keep what others wrote, and repeat your change.{shown}"
        )

    def _after_write(self, call: _Call) -> dict[str, Json] | None:
        """Note what was written, and give up the claim."""
        digest = _digest(_content(call.path))

        def learn(tx: Tx) -> bool:
            claim = tx.read(call.claim)
            if not call.holds(claim):
                return False
            _know(tx, call, digest)
            tx.write(tx.read(call.file), call.value(digest=digest))
            tx.delete(claim)
            return True

        if self._space.transact(learn):
            return None
        reason = (
            f"{call.shown} was written without a claim: it took longer than {self._ttl:g} seconds, "
            "and another agent may have written the file meanwhile. Read it again, and see that "
            "nothing is lost."
        )
        return {"decision": "block", "reason": reason}

    def _release(self, call: _Call) -> None:
        def release(tx: Tx) -> None:
            claim = tx.read(call.claim)
            if call.holds(claim):
                tx.delete(claim)

        self._space.transact(release)

    def _end(self, session: str, agent: str, whole: bool) -> None:
        """Give up the claims of an agent; of a whole session, forget what it has read, too."""

        def end(tx: Tx) -> None:
            for claim in tx.scan("claude-code/claim/").values():
                holder = claim.value["agent"]
                if holder == agent or (whole and holder.startswith(f"{session}/")):
                    tx.delete(claim)
            for what in ("seen", "reading") if whole else ():
                for known in tx.scan(f"claude-code/{what}/{_short(session)}/").values():
                    tx.delete(known)

        self._space.transact(end)

    def _seen(self, call: _Call) -> str:
        return _digest_in(self._space.read(call.seen))


def _agent(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return the session, and the agent: that, or a subagent of it, which reads on its own."""
    session, sub = str(event.get("session_id")), event.get("agent_id")
    return session, f"{session}/{sub}" if sub else session


def _short(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


def _know(tx: Tx, call: _Call, digest: str) -> None:
    tx.write(tx.read(call.seen), call.value(digest=digest), expires=_REMEMBERED)


def _digest_in(record: Record) -> str:
    return str(record.value["digest"]) if record.exists else ABSENT


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _digest(data: bytes | None) -> str:
    return ABSENT if data is None else hashlib.sha256(data).hexdigest()


def _denied(reason: str) -> dict[str, Json]:
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": reason,
        }
    }
