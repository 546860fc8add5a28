"""Locks that are taken and given back, WATCH, and writes that only succeed once."""

from __future__ import annotations

import ast
import re

from interlock.audit.mapper import Mapper
from interlock.audit.value import Value

LOCK = re.compile(
    r"(?i)(?<![bc])(?<!un)(?<!dead)lock(?!ed_out|file_?path|out|er_room)|mutex|semaphore|exclusive|synchroni[sz]ed|critical_section|single_?flight"
)
_ACQUIRE = re.compile(
    r"(?i)^_?(try_|a)?(acquire|lock)(_\w*)?$|^_?(obtain|grab|take|claim|get)_\w*(lock|lease)\w*$"
)
_POOL = re.compile(r"(?i)pool|engine|conn|session|database|db$|limiter|bucket")
_RELEASE = re.compile(r"(?i)^_?(a)?(release|unlock)(_\w*)?$")


class Locks(Mapper):
    """Evaluates calls that make a window safe."""

    def guard_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        """Note locks that are taken or given back, WATCH, and writes that only succeed once."""
        text = base.text if base is not None else ""
        if name in {"flock", "lockf", "locking"} and positional:
            mode = " ".join(each.text for each in positional[1:])
            self._hold(f"flock({positional[0].text})", release="LOCK_UN" in mode or "UNLCK" in mode)
            return Value("None")
        if _ACQUIRE.match(name):
            lockish = (
                LOCK.search(name)
                or LOCK.search(text)
                or (name == "acquire" and not _POOL.search(text))
            )
            if lockish and name not in {"lock"}:
                self._hold(text or name)
                return Value(f"{text}.{name}()", kind="lock", holder=text)
        if _RELEASE.match(name):
            self._hold(
                text or name.replace("release", "acquire").replace("unlock", "lock"), release=True
            )
            return Value("None")
        if name == "watch" and base is not None:
            self.state.watched |= {each.text for each in positional} or {"*"}
            self.state.watched |= (
                {"*"} if any("*" in each.text[:1] for each in positional) else set()
            )
            return Value("None")
        if name == "unwatch":
            self.state.watched = frozenset()
            return Value("None")
        only_once = name in {"setnx", "add"} and bool(
            LOCK.search(" ".join(each.text for each in positional[:1]))
        )
        if name == "set" and "nx" in named and named["nx"].text != "False":
            only_once = True
        if only_once and positional:
            self._hold(f"nx:{positional[0].text}")
            expires = {"ex", "px", "timeout", "expire", "ttl", "exat", "pxat"} & set(named) or (
                name == "add" and len(positional) > 2
            )
            self.locks_taken[positional[0].text] = Value("expires" if expires else "")
            if expires:
                self.known_locks.add((self.module.path, positional[0].text))
            return Value(f"{text}.{name}({positional[0].text})", kind="lock")
        return None

    def _hold(self, lock: str, release: bool = False) -> None:
        if release:
            self.state.held = self.state.held - {lock}
        else:
            self.state.held = self.state.held | {lock}
