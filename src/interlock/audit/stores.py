"""The table of stores: which calls read, write, test and compare, as data (`stores.toml`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from interlock.audit.problem import SettingsError

_LISTS = {
    *("imports", "receivers", "not_receivers", "weak", "reads", "tests", "writes", "deletes"),
    *("inserts", "drains", "atomic", "same", "prefix", "vector_writes", "read_words"),
    *("write_words", "test_words", "not_words", "guards"),
}
_TEXTS = {"name", "title", "fix", "append_fix"}
_FLAGS = {"generic", "only", "strict"}
_SIGNATURE = re.compile(r"([\w.]+(?:\(\)\.\w+)?)\((.*)\)")


class Parameter(NamedTuple):
    """One argument of a store's method: what it is, where it stands, how it is named."""

    role: str
    position: int
    keyword: str


class Call(NamedTuple):
    """A method of a store: what it does and what its arguments are."""

    method: str
    action: str  # read, test, write, delete, insert, atomic
    parameters: tuple[Parameter, ...]


@dataclass
class Store:
    """One kind of store."""

    name: str
    title: str = ""
    fix: str = ""
    append_fix: str = ""
    generic: bool = False
    only: bool = False
    strict: bool = False  # its receivers only count where it is imported
    calls: dict[str, Call] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.receivers = _globs(self.lists.get("receivers", []))
        self.not_receivers = _globs(self.lists.get("not_receivers", []))
        self.weak = _globs(self.lists.get("weak", []))
        self.same = frozenset(self.lists.get("same", []))
        self.drains = frozenset(self.lists.get("drains", []))
        self.guards = frozenset(self.lists.get("guards", []))
        words = {name: self.lists.get(f"{name}_words", []) for name in ("read", "write", "test")}
        self._words = {name: _words(each) for name, each in words.items() if each}
        self._not = _words(self.lists.get("not_words", []))

    def call(self, method: str) -> Call | None:
        """Return what a method does, or None."""
        if method in self.calls or not self.generic:
            return self.calls.get(method)
        name = method.lower().lstrip("_")
        if self._not.match(name):
            return None
        for action, words in self._words.items():
            if words.match(name):
                return Call(method, action, ())
        return None


def _words(words: Iterable[str]) -> re.Pattern[str]:
    alternatives = "|".join(map(re.escape, words))
    return re.compile(rf"(?:{alternatives})(?:_.*)?$" if alternatives else r"(?!)")


def _globs(patterns: Iterable[str]) -> tuple[str, ...]:
    return tuple(each.lower() for each in patterns)


class Stores:
    """All stores that are known, and the words by which a receiver is recognised."""

    def __init__(self, stores: list[Store]) -> None:
        self.all = stores
        self.by_name = {store.name: store for store in stores}
        self.methods = {name for store in stores for name in store.calls}
        self._recognised: dict[tuple[str, frozenset[str], str, bool], Store | None] = {}

    def recognise(
        self, names: tuple[str, ...], imports: frozenset[str], method: str, generic: bool = False
    ) -> Store | None:
        """Return the store with a method that something is, by its class, maker or own name."""
        for name in names:
            key = (name.lower(), imports, method, generic)
            if key not in self._recognised:
                self._recognised[key] = self._find(*key)
            if (found := self._recognised[key]) is not None:
                return found
        return None

    def _find(self, name: str, imports: frozenset[str], method: str, generic: bool) -> Store | None:
        for store in self.all:
            if generic and not store.generic:
                continue
            if store.call(method) is None and method not in store.same:
                continue
            roots = store.lists.get("imports") or []
            imported = not roots or any(
                each == root or each.startswith(f"{root}.") for root in roots for each in imports
            )
            if _any(name, store.not_receivers):
                continue
            if (imported or not store.strict) and _any(name, store.receivers):
                return store
            if imported and _any(name, store.weak):
                return store
        return None


@cache
def _any(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, each) for each in globs)


def load_stores(own: Iterable[Mapping[str, Any]] = ()) -> Stores:
    """Return the built-in stores, the given ones before them.  Raises SettingsError."""
    text = resources.files("interlock.audit").joinpath("stores.toml").read_text("utf-8")
    return Stores([_store(each) for each in [*own, *tomllib.loads(text)["store"]]])


def _store(table: Mapping[str, Any]) -> Store:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise SettingsError('A store needs a name: [[tool.interlock.audit.store]] name = "..."')
    for key, value in table.items():
        known = (
            (key in _LISTS and isinstance(value, list) and all(isinstance(v, str) for v in value))
            or (key in _TEXTS and isinstance(value, str))
            or (key in _FLAGS and isinstance(value, bool))
        )
        if not known:
            raise SettingsError(f"Store {name!r}: {key} = {value!r} is not understood.")
    calls: dict[str, Call] = {}
    for group, action in _ACTIONS.items():
        for signature in table.get(group, []):
            call = _call(name, signature, action)
            calls[call.method] = call
    for method in [*table.get("atomic", []), *table.get("vector_writes", [])]:
        calls[method] = Call(method, "atomic", ())
    return Store(
        name,
        title=table.get("title", name),
        fix=table.get("fix", "compare what was read in the step that writes"),
        append_fix=table.get("append_fix", table.get("fix", "append in one step of the store")),
        generic=table.get("generic", False),
        only=table.get("only", False),
        strict=table.get("strict", False),
        calls=calls,
        lists={key: value for key, value in table.items() if key in _LISTS},
    )


_ACTIONS = {
    "reads": "read",
    "tests": "test",
    "writes": "write",
    "deletes": "delete",
    "inserts": "insert",
}


def _call(store: str, signature: str, action: str) -> Call:
    match = _SIGNATURE.fullmatch(signature.strip())
    if match is None:
        raise SettingsError(
            f'Store {store!r}: {signature!r} is not a signature. Example: "set(key, value)"'
        )
    parameters = []
    for position, each in enumerate(filter(None, map(str.strip, match[2].split(",")))):
        role, _, keyword = each.partition(":")
        if role not in {"key", "field", "value", "doc", "guard", "~"}:
            raise SettingsError(
                f"Store {store!r}: {role!r} in {signature!r} is none of key, field, value, doc, "
                "guard, ~."
            )
        parameters.append(Parameter(role, position, keyword or role))
    return Call(match[1], action, tuple(parameters))
