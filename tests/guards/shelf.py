"""What two functions of a caller's can be over."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

from interlock import guards


class Shelf:
    """What two functions of a caller's can be over: values with ETags in a dict."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[str, Any]] = {}
        self._lock = threading.Lock()

    def put(self, key: str, value: Any) -> str:
        """Store a value under a new ETag."""
        self.there[key] = uuid.uuid4().hex, json.loads(json.dumps(value))
        return self.there[key][0]

    def load(self, key: str) -> tuple[str, Any] | None:
        """Return the ETag and the value."""
        return self.there.get(key)

    def replace(self, key: str, tag: str | None, value: Any) -> object:
        """Replace what has this ETag."""
        with self._lock:
            if self.there.get(key, (None, None))[0] != tag:
                return guards.CONFLICT
            if value is guards.ABSENT:
                del self.there[key]
                return None
            return self.put(key, value)

    async def load_async(self, key: str) -> tuple[str, Any] | None:
        """The same, awaited."""
        return self.load(key)

    async def replace_async(self, key: str, tag: str | None, value: Any) -> object:
        """The same, awaited."""
        return self.replace(key, tag, value)
