"""Judges each write: does it destroy what others wrote since the read that it came from?"""

from __future__ import annotations

import re
from typing import Protocol

from interlock.audit.database import IDS
from interlock.audit.finding import RULES, Finding, Step
from interlock.audit.keys import fixed_ids, is_result, shared_key
from interlock.audit.project import FunctionInfo, Project
from interlock.audit.state import State
from interlock.audit.stores import Stores
from interlock.audit.value import Flow, Read, Site, Value, Write, in_order

LOCK_KEY = re.compile(r"(?i)lock|lease|mutex|semaphore")
KEY_PART = re.compile(r"(?i)(id|key|uuid|name)$")
_CACHE = re.compile(r"(?i)(^|[^a-z])(\w+_)?cache")
_TOKENS = re.compile(r"(?i)(^|[^a-z])(\w+_)?(tokens?|credentials?|cookies?)\b(?!_)")
_KEEPING = {"arithmetic", "appended", "changed"}
_GENERIC = {"store", "function"}


class Point(Protocol):
    """The point of a path at which a write is judged."""

    project: Project
    stores: Stores
    root: FunctionInfo
    state: State
    frames: list[tuple[int, Site]]
    reads: list[Read]
    locks_taken: dict[str, Value]
    known_locks: set[tuple[str, str]]

    @property
    def in_retry(self) -> tuple[int, ...]:
        """The loops around this point that try again."""

    @property
    def conflict_handler(self) -> bool:
        """Whether this point is reached after a conflict."""

    @property
    def duplicates_caught(self) -> bool:
        """Whether an insert of what exists already is an error that is handled."""


class Judge:
    """Finds the reads of a write and says whether they are safe."""

    def __init__(self, walk: Point) -> None:
        self.walk = walk
        self.findings: list[Finding] = []
        self.writes = 0
        self._seen: set[tuple[str, int, int]] = set()

    def write(self, write: Write) -> None:
        """Judge a write."""
        if write.kind == "insert":
            self._insert(write)
            return
        if write.kind == "delete":
            if not self._release(write):
                self._drain(write)
            return
        self.writes += 1
        sources = [flow for flow in write.flows if self._meets(flow, write)]
        for flow in in_order(sources):
            if self._changed(flow.read, write, flow):
                return
        if not sources:
            found = len(self.findings)
            self._conditional(write)
            if len(self.findings) == found:
                self._key(write)
        if write.kind == "claim" and not write.guard:
            self._claim(write)

    # Read, change, write.

    def _changed(self, read: Read, write: Write, flow: Flow) -> bool:
        walk = self.walk
        retried = [at for at in walk.in_retry if at not in read.loops]
        if read.test and read.spot.store != "redis":
            return False
        if self._common_lock(read):
            return False
        guarded = bool(write.guard)
        if guarded and read.safe:
            return False
        if guarded and write.guard == "WATCH":
            why = "The data were read before WATCH: a write between the read and WATCH is not noticed."
            return self._report("stale-retry", read, write, why)
        if guarded:
            if retried and write.guard in (
                "version",
                "expected_version",
                "if_match",
                "etag",
                "IfMatch",
                "revision",
            ):
                why = "The loop repeats the write after a conflict with what was read before the loop, so the retry destroys the change that it conflicted with."
                return self._report("stale-retry", read, write, why)
            return False
        if read.safe:
            return False
        if read.spot.store == "memory" and not (
            self._interleaved(read)
            and write.marks
            & (
                {"arithmetic", "appended", "changed", "model"}
                | ({"computed"} if write.method == "[]=" else set())
            )
        ):
            return False
        if read.spot.store == "orm" and not write.marks & {
            "arithmetic",
            "appended",
            "changed",
            "computed",
        }:
            return False
        if read.spot.store == "file" and not self._shared_file(write):
            return False
        if self._is_cached(write):
            return False  # what is lost is computed again
        if walk.conflict_handler:
            why = "The write after a conflict has what was read before it, so it destroys the change that it conflicted with."
            return self._report("stale-retry", read, write, why)
        appended = "appended" in write.marks and "changed" not in write.marks
        rule = "lost-append" if appended else "lost-update"
        what = "appended elements" if appended else "changes"
        why = f"Nothing compares at the write, so {what} that others write between the read and the write are lost."
        return self._report(rule, read, write, why)

    def _is_cached(self, write: Write) -> bool:
        spot = write.spot
        if spot.store == "file":
            return bool(_TOKENS.search(spot.key))
        if spot.store in ("sql", "memory"):
            return bool(_CACHE.search(spot.holder if spot.store == "sql" else spot.key))
        return bool(_CACHE.search(spot.key)) and not write.marks & _KEEPING

    def _common_lock(self, read: Read) -> bool:
        return bool(read.held & self.walk.state.held)

    def _interleaved(self, read: Read) -> bool:
        walk = self.walk
        threaded = walk.root.node.name in walk.root.module.thread_targets
        return walk.state.tick > read.tick or (threaded and not walk.root.is_async)

    def _shared_file(self, write: Write) -> bool:
        module = self.walk.root.module
        return module.concurrent or not module.is_script

    def _meets(self, flow: Flow, write: Write) -> bool:
        read, here, there = flow.read, flow.read.spot, write.spot
        if here.store != there.store or here.holder != there.holder:
            return False
        if read.frames and write.frames and read.frames[0] == write.frames[0]:
            return False
        if here.store in _GENERIC:
            return self._meets_by_name(flow, write)
        if here.store == "sql":
            return self._same_row(read, write)
        if here.store == "orm":
            owner = dict(write.where).get("#owner")
            if owner is None:
                return self._same_row(read, write)
            owners = {each.read for each in owner.flows if each.read.spot.store == "orm"}
            return read in owners or any(self._same_query(read, each) for each in owners)
        if here.key != there.key:
            if not there.key and here.store not in ("file", "memory"):
                return True  # the key is in what is written
            if flow.part in ("", "=") and any(
                each.read is read and KEY_PART.search(each.part) for each in write.key_flows
            ):
                return True  # the key is in what was read
            if here.store == "mongo" and any(
                f.read is read for _, v in write.where for f in v.flows
            ):
                return self._same_field(flow, write)
            return bool(
                here.store == "langgraph store"
                and read.method in ("search", "asearch")
                and here.key
                and there.key.startswith(here.key)
            )
        return self._same_field(flow, write)

    def _same_field(self, flow: Flow, write: Write) -> bool:
        fields, part = write.spot.fields, flow.part
        if flow.read.spot.fields and fields and not flow.read.spot.fields & fields:
            return False
        if not fields or part in ("", "=") or flow.read.spot.fields:
            return True
        return part in fields or not part.isidentifier()

    def _same_query(self, read: Read, other: Read) -> bool:
        asked, given = dict(read.where), dict(other.where)
        return bool(asked) and {k: v.text for k, v in asked.items()} == {
            k: v.text for k, v in given.items()
        }

    def _same_row(self, read: Read, write: Write) -> bool:
        asked, given = dict(read.where), dict(write.where)
        if "#columns" in given:
            return True
        common = set(asked) & set(given)
        for column in common:
            if asked[column].text == given[column].text:
                continue
            if not _identifies(read, column, given[column]):
                return False
        if common:
            return True
        if any(_identifies(read, column, value) for column, value in given.items()):
            return True
        return (not asked and not given) or bool(
            not given and write.spot.store == "sql" and not asked
        )

    def _meets_by_name(self, flow: Flow, write: Write) -> bool:
        read = flow.read
        if (
            read.noun
            and write.noun
            and read.noun != write.noun
            and not (read.noun.endswith(write.noun) or write.noun.endswith(read.noun))
        ):
            return False
        if read.test:
            return False
        itself = any(each.read is read and each.part == "=" for each in write.flows)
        if itself:
            return True
        same_key = bool(
            read.arguments and write.arguments and read.arguments[0] == write.arguments[0]
        )
        if any(each.read is read for each in write.key_flows) and len(write.arguments) > 1:
            return (
                "changed" in write.marks
                or "model" in write.marks
                or "arithmetic" in write.marks
                or "computed" in write.marks
            )
        nothing = not read.arguments and len(write.arguments) == 1
        return (same_key and len(write.arguments) > 1) or nothing

    # Read, decide, write.

    def _conditional(self, write: Write) -> None:
        walk = self.walk
        if write.guard or write.spot.store in ("file",):
            return
        for condition in walk.state.conditions:
            for flow in in_order(condition.flows):
                read = flow.read
                if not self._decides(flow, write):
                    continue
                if read.safe or self._common_lock(read):
                    continue
                if write.spot.store == "memory":
                    continue
                answered = any(each.spot[:3] == read.spot[:3] for each in condition.answers)
                if answered and "default" not in write.marks:
                    continue
                if (
                    not answered
                    and not read.test
                    and not condition.compares
                    and not condition.refuses
                ):
                    continue
                if self._fills(condition.names, write, read):
                    continue
                why = (
                    f"The check on line {condition.line} may no longer be true when this writes: "
                    "two writers can pass it at the same time."
                )
                self._report("check-then-act", read, write, why)
                return

    def _decides(self, flow: Flow, write: Write) -> bool:
        read = flow.read
        if read.spot.store in _GENERIC:
            return (read.test or "default" in write.marks) and self._meets_by_name_test(read, write)
        if read.spot.store == "orm":
            return (
                bool(write.spot.fields)
                and flow.part in write.spot.fields
                and self._meets(flow, write)
            )
        if read.spot.store == "sql":
            part = flow.part
            if part.isdigit() and int(part) < len(read.columns):
                part = read.columns[int(part)]
            return self._meets(flow, write) and part.lower() in write.spot.fields
        return self._meets(flow, write)

    def _meets_by_name_test(self, read: Read, write: Write) -> bool:
        if read.spot.holder != write.spot.holder or read.spot.store != write.spot.store:
            return False
        if read.frames and write.frames and read.frames[0] == write.frames[0]:
            return False
        return bool(read.arguments) and read.arguments[0] in write.arguments

    def _fills(self, names: frozenset[str], write: Write, read: Read) -> bool:
        """Say whether a cache is filled: what was not there is computed and used as if it had been."""
        if read.test:
            return False
        if read.spot.store in ("sql", "orm"):
            return False
        values = [self.walk.state.env.get(name) for name in names]
        return any(value is not None and value.text == write.value for value in values)

    def _insert(self, write: Write) -> None:
        walk = self.walk
        if write.guard or walk.duplicates_caught:
            return
        for flow in in_order(write.flows):
            read = flow.read
            counted = re.search(r"(?i)\b(max|count)\s*\(", " ".join(read.columns))
            inside = read.frames and read.frames[:1] == write.frames[:1]
            if read.spot[:2] != write.spot[:2] or not counted or inside:
                continue
            if not read.safe and not self._common_lock(read):
                why = "Two writers can compute the same next value from the same rows, and both insert it."
                self._report("lost-update", read, write, why)
                return
        for condition in walk.state.conditions:
            for flow in in_order(condition.flows):
                read = flow.read
                if read.spot.store != write.spot.store or read.spot.holder != write.spot.holder:
                    continue
                if read.frames and write.frames and read.frames[0] == write.frames[0]:
                    continue
                if self._common_lock(read) or read.safe:
                    continue
                asked = dict(read.where)
                given = dict(write.where)
                same = [c for c in asked if c in given and asked[c].text == given[c].text]
                unique = walk.project.unique.get(write.spot.holder, [])
                if not same or any(
                    columns
                    and columns <= {*same, *(set(given) - set(asked))}
                    and columns & set(same)
                    for columns in unique
                ):
                    continue
                why = f"Two writers can pass the check on line {condition.line} at the same time, and both insert."
                self._report("check-then-act", read, write, why)
                return

    def _claim(self, write: Write) -> None:
        """A row that was found free is taken without looking whether it still is."""
        for _, value in write.where:
            for flow in in_order(value.flows):
                read = flow.read
                if read.spot.store != write.spot.store or read.spot.holder != write.spot.holder:
                    continue
                if read.frames and write.frames and read.frames[0] == write.frames[0]:
                    continue
                states = {each for each in read.asked & write.spot.fields if not IDS.match(each)}
                if not states or read.safe or self._common_lock(read):
                    continue
                column = sorted(states)[0]
                why = f"The row was chosen by its {column}; another writer can change it before this does, and both go on."
                self._report("check-then-act", read, write, why)
                return

    def _drain(self, write: Write) -> None:
        walk = self.walk
        store = walk.stores.by_name.get(write.spot.store)
        if store is None or write.guard:
            return
        for read in walk.reads:
            if read.method in store.drains and read.spot[:3] == write.spot[:3]:
                if (
                    read.safe
                    or self._common_lock(read)
                    or (read.frames and read.frames[:1] == write.frames[:1])
                ):
                    continue
                why = "What others add between the read and the delete is deleted unread."
                self._report("lost-update", read, write, why)
                return

    # Leases, keys and ids.

    def lease(self, site: Site, lock: str) -> None:
        """A lock that may expire while a model thinks, and a write under it."""
        self._plain(
            "unchecked-lease",
            site,
            f"{lock} may expire before the write under it: its token is not compared",
            "The lock is granted for a limited time and a model call, a request or a sleep lies inside; when it expires, another holder writes, too.",
            "Let the write compare: a fencing token or a version at the write (interlock: space.lease, lease.write), or renew the lock while it is held.",
        )

    def _release(self, write: Write) -> bool:
        """Judge the deletion of a lock: is it still one's own?"""
        walk = self.walk
        expires = walk.locks_taken.get(write.spot.key)
        key = (walk.root.module.path, write.spot.key)
        if expires is None and not (
            LOCK_KEY.search(f"{write.spot.key} {walk.root.qualname}") and key in walk.known_locks
        ):
            return False
        if expires is not None and expires.text != "expires":
            return True
        if write.guard:
            return True
        compared = any(
            flow.read.spot.key == write.spot.key for c in walk.state.conditions for flow in c.flows
        )
        if compared:
            message = f"The lock {write.spot.key} is compared and then deleted, in two steps"
            why = "It can expire and be granted to another holder between the two."
        else:
            message = f"The lock {write.spot.key} is deleted without comparing its token"
            why = "If it has expired and was granted again, this releases another holder's lock."
        self._plain(
            "unchecked-lease",
            write.via or write.site,
            message,
            why,
            "A random token as the value, and a Lua script that deletes only if the value is the token (redis-py: r.lock(name, timeout=...)).",
        )
        return True

    def _key(self, write: Write) -> None:
        walk = self.walk
        if (
            write.spot.store in ("sql", "orm", "memory")
            or write.guard
            or not is_result(write)
            or walk.state.held
        ):
            return
        text = write.spot.key or (write.arguments[0] if len(write.arguments) > 1 else "")
        names = shared_key(write, text)
        if not names or any(read.spot[:3] == write.spot[:3] for read in walk.reads):
            return
        self._plain(
            "shared-key",
            write.via or write.site,
            f"{text} is built from {', '.join(dict.fromkeys(names))} only: agents with the same task write the same key",
            "The second agent's result replaces the first one's, and nobody notices.",
            "Put the agent or the run into the key, or append each result to a list under it (merged key).",
        )

    def fixed_id(self, site: Site, ids: Value, holder: str, frames: list[tuple[int, Site]]) -> None:
        """Judge the ids under which vectors are written."""
        why = fixed_ids(ids)
        if why and not frames:
            self._plain(
                "fixed-id",
                site,
                f"Vectors are written to {holder} under {why}: each batch replaces the one before",
                "Two documents, runs or agents with the same id overwrite each other's vectors.",
                "An id of the content (a hash of the text and its source) or a uuid; delete by metadata when a source is replaced.",
            )

    def _plain(self, rule: str, site: Site, message: str, why: str, fix: str) -> None:
        key = (rule, site.line, site.line)
        if key in self._seen or (self.walk.frames and rule != "unchecked-lease"):
            return
        self._seen.add(key)
        self.findings.append(
            Finding(
                rule,
                "warning",
                message,
                why,
                fix,
                site,
                None,
                [Step(site, "writes")],
                self.walk.root.qualname,
            )
        )

    # Reporting.

    def _report(self, rule: str, read: Read, write: Write, why: str) -> bool:
        walk = self.walk
        via = write.via or write.site
        read_via = read.via or read.site
        keys = {(rule, read_via.line, via.line), ("", read_via.line, hash(write.spot[:3]))}
        if keys & self._seen:
            return True
        self._seen |= keys
        store = walk.stores.by_name.get(write.spot.store)
        title = store.title if store else _TITLES.get(write.spot.store, write.spot.store)
        waits = walk.state.tick > read.tick
        slow = walk.state.slow > read.slow
        name = what(read, write)
        window = ""
        if slow:
            window = " A model call, a request or a sleep lies between, so the window is long."
        elif waits:
            window = " An await lies between, so other tasks run in the window."
        lines = (
            f"line {read_via.line}"
            if read_via.file == via.file
            else f"{read_via.file}:{read_via.line}"
        )
        message = f"{name} is read from {title} on {lines} and written back here: {RULES[rule].title.lower()}"
        if rule == "check-then-act":
            message = f"{name} in {title} is checked on {lines} and written here: check, then act"
        if rule == "stale-retry":
            message = f"{name} was read from {title} on {lines} and is written again here after a conflict: retry with old data"
        steps = []
        if read.via is not None:
            steps.append(Step(read.via, f"calls {read.site.function}"))
        steps.append(Step(read.site, f"reads {name} ({read.method})"))
        if write.via is not None:
            steps.append(Step(write.via, f"calls {write.site.function}"))
        steps.append(Step(write.site, f"writes {name} ({write.method})"))
        self.findings.append(
            Finding(
                rule,
                "error" if waits or slow else "warning",
                message,
                why + window,
                self._fix(rule, write, name),
                via,
                read_via,
                steps,
                walk.root.qualname,
                store=write.spot.store,
            )
        )
        return True

    def _fix(self, rule: str, write: Write, name: str) -> str:
        store = self.walk.stores.by_name.get(write.spot.store)
        if rule == "stale-retry":
            return "Read inside the loop, after WATCH or together with the version, and compute the value again on every try."
        if write.spot.store == "sql":
            fields = sorted(write.spot.fields)
            column = fields[0] if fields else "value"
            if rule == "check-then-act":
                return f"Put the check into the statement: UPDATE {write.spot.holder} SET ... WHERE ... AND {column} = <what was read>, and look at rowcount; for an insert a UNIQUE constraint with ON CONFLICT."
            return f"SET {column} = {column} + ? where the change can be said so; SELECT ... FOR UPDATE in the same transaction; or a version column in WHERE, and look at rowcount."
        if write.spot.store == "orm":
            field = next(iter(sorted(write.spot.fields)), "value")
            if rule == "check-then-act":
                return f"Decide in the database: UPDATE ... WHERE {field} = <what was read>, and look at the number of rows; or read with with_for_update() / select_for_update(); for an insert a unique constraint."
            return f"Read with with_for_update() / select_for_update(); or {write.spot.holder}.{field} + ... (F({field!r}) in Django) in the UPDATE; or version_id_col on {write.spot.holder}."
        if write.spot.store == "file":
            return f"Hold one file lock around the read and the write, or interlock.guards.file({name}).update(change); append-only data: open(..., 'a') with one record a line."
        if write.spot.store == "memory":
            return "Hold one asyncio.Lock (threading.Lock in threads) around the read and the write, or compute first and change without an await between."
        if rule == "check-then-act" and write.spot.store == "redis":
            return f"SET {name} ... NX (or HSETNX, or the return value of SADD) and look at the answer; for a change of state a Lua script that compares."
        if write.kind == "delete":
            return "RENAME the key first, or read and delete in MULTI/EXEC or a Lua script; LPOP with a count, SPOP for sets."
        if store is None:
            return "Give the write the version that was read and let it refuse where that has moved; or hold one lock around both."
        fix = store.append_fix if rule == "lost-append" and store.append_fix else store.fix
        return fix[:1].upper() + fix[1:] + "."


def _identifies(read: Read, column: str, value: Value) -> bool:
    """Say whether a column is compared with the same column of what was read."""
    return any(
        each.read is read and (each.part in ("", "=", column) or not each.part.isidentifier())
        for each in value.flows
    )


_TITLES = {
    "sql": "the database",
    "orm": "the database",
    "file": "a file",
    "memory": "memory that tasks share",
    "function": "a store",
}


def what(read: Read, write: Write) -> str:
    """Return the words for what is read and written."""
    spot = write.spot
    fields = ", ".join(sorted(spot.fields)[:3])
    if spot.store in ("sql", "orm"):
        return f"{spot.holder}.{fields}" if fields and len(spot.fields) <= 3 else spot.holder
    if spot.store in _GENERIC:
        return f"{spot.holder} ({', '.join(read.arguments[:1]) or write.noun or 'value'})"
    return (spot.key or spot.holder) + (f"[{fields}]" if fields and spot.store == "redis" else "")
