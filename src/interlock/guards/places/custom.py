"""Two functions of the caller's: whatever can replace conditionally, such as S3 or an HTTP ETag."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from interlock.core.keys import decode
from interlock.errors import Invalid, Unknown
from interlock.guards.place import ABSENT, Absent, Alone, Change, Changed, Found


class Custom(Alone):
    """`load` and `replace` as `interlock.guards.custom` describes them."""

    def __init__(
        self, load: Callable[[str], Any], replace: Callable[[str, Any, Any], Any], name: str
    ) -> None:
        self.name = name
        self.texts = False
        self.asynchronous = iscoroutinefunction(load)
        self._load = load
        self._replace = replace
        for what, fn in (("load", load), ("replace", replace)):
            if not callable(fn):
                raise Invalid(f"{what}={fn!r:.60} is not a function.")
        if self.asynchronous != iscoroutinefunction(replace):
            raise Invalid("load and replace must both be coroutine functions, or none of them.")

    def check_key(self, key: str) -> str | None:
        """Any key is one: the functions know."""

    async def load(self, key: str) -> Found:
        """Call `load`."""
        answer = self._load(key)
        answer = await answer if isawaitable(answer) else answer
        if answer is None:
            return Found(None, ABSENT)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Invalid(f"load({key!r}) returned {answer!r:.60}. Return (tag, value), or None.")
        return Found(*answer)

    async def replace(self, change: Change) -> object | Changed:
        """Call `replace`."""
        tag = change.tag
        if tag is ABSENT:
            there = await self.load(change.key)
            if not isinstance(there.value, Absent):
                return Changed(there)
            tag = there.tag
        value = ABSENT if change.body is None else decode(change.body)
        answer: object = self._replace(change.key, tag, value)
        answer = await answer if isawaitable(answer) else answer
        if isinstance(answer, Changed):
            return answer
        if answer is None and change.body is not None:
            raise Unknown(
                f"replace({change.key!r}) returned None, so it may be written or not. Return the "
                "new tag, or guards.CONFLICT."
            )
        return answer
