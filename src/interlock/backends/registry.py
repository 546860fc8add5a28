"""The stores that a process has open: one for each address and options, shared by all its spaces.

A store holds what is scarce (connections, threads, file descriptors); a space in it holds next to
nothing.  So whoever opens a space borrows the store, and the last one to give it back closes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Store = TypeVar("Store")


class Registry(Generic[Store]):
    """Stores by their keys: address and options.  Every thread may use it."""

    def __init__(self) -> None:
        _REGISTRIES.append(self)
        self.start_anew()

    def start_anew(self) -> None:
        """Forget all stores, as a forked child must: what they hold is the parent's."""
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[Store]] = {}

    def borrow(self, key: Hashable, make: Callable[[], Store]) -> Store:
        """Return the store of a key, made by `make` where there is none.

        Whoever asks for it meanwhile waits; where `make` raises, the next one tries again.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            entry.borrowed += 1
        try:
            with entry.making:
                if entry.store is None:
                    entry.store = make()
                return entry.store
        except BaseException:
            self._leave(key, entry)
            raise

    def give_back(self, key: Hashable, store: Store) -> bool:
        """Return whether this was the last borrower, who must close the store now."""
        with self._lock:
            entry = self._entries.get(key)
        return entry is not None and entry.store is store and self._leave(key, entry)

    def _leave(self, key: Hashable, entry: _Entry[Store]) -> bool:
        with self._lock:
            entry.borrowed -= 1
            last = not entry.borrowed
            if last and self._entries.get(key) is entry:
                del self._entries[key]
            return last


class _Entry(Generic[Store]):
    def __init__(self) -> None:
        self.borrowed = 0
        self.store: Store | None = None
        self.making = threading.Lock()


_REGISTRIES: list[Registry[Any]] = []


def _after_fork_in_child() -> None:
    for registry in _REGISTRIES:
        registry.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
