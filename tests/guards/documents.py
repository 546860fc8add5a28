"""A collection of mongomock-ng whose calls are atomic, as those of a server are."""

from __future__ import annotations

import threading
from typing import Any


class Atomic:
    """A collection: mongomock-ng finds a document and then updates it, unprotected from threads."""

    def __init__(self, plain: Any) -> None:
        self._plain, self._lock, self.name = plain, threading.Lock(), plain.name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._plain, name)

        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                return method(*arguments, **options)

        return call
