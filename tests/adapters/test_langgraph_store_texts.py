"""Namespaces, keys and values of the LangGraph store that are out of the ordinary."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

import interlock
from interlock.adapters.langgraph import Store
from tests.adapters.langgraph_places import place, space

__all__ = ["place", "space"]  # fixtures

MEMORIES = ("memories", "team")
STRANGE = ["a b", "ä/ö", "*", "{x}", "$rules", "..", "=", "#", "%41", " ", "x" * 600, "日本" * 90]


def test_any_text_is_a_label_or_a_key(space: interlock.Space) -> None:
    store, memory = Store(space), InMemoryStore()
    labels = [text for text in STRANGE if "." not in text]
    for each in (store, memory):
        for key in ["", *STRANGE]:
            each.put(("deep", *labels, key.replace(".", "") or "-"), key, {"key": key})
        for label in labels:
            each.put((label,), "k", {"label": label})
    for namespace in [(), ("deep",), *((label,) for label in labels), ("deep", *labels[:10])]:
        found = {(i.namespace, i.key): i.value for i in store.search(namespace, limit=100)}
        wanted = {(i.namespace, i.key): i.value for i in memory.search(namespace, limit=100)}
        assert found == wanted
    for key in ["", *STRANGE]:
        item = store.get(("deep", *labels, key.replace(".", "") or "-"), key)
        assert item is not None
        assert item.value == {"key": key}
    assert all(len(key.encode()) <= 512 for key in space.scan())


@pytest.mark.parametrize(
    "op",
    [
        GetOp(("a.b",), "k"),
        PutOp(("a", ""), "k", {}),
        SearchOp(("a.b",)),
        PutOp(("a", 1), "k", {}),  # type: ignore[arg-type]  # on purpose
        GetOp(("a\x00",), "k"),
    ],
)
def test_a_namespace_that_langgraph_refuses_is_refused_in_a_batch(op: Any) -> None:
    with interlock.open("sqlite://") as space, pytest.raises(InvalidNamespaceError):
        Store(space).batch([op])


def test_values_that_are_no_json_or_too_large_are_refused_with_the_limit() -> None:
    with interlock.open("sqlite://", max_value_bytes=1000) as space:
        store = Store(space)
        with pytest.raises(interlock.Invalid, match="1,000"):
            store.put(MEMORIES, "k", {"text": "x" * 1000})
        with pytest.raises(interlock.Invalid, match="JSON"):
            store.put(MEMORIES, "k", {"at": object()})
        with pytest.raises(interlock.Invalid, match="surrogate"):
            store.put(MEMORIES, "\ud800", {})
        assert space.scan() == {}
        space.create("langgraph/store/memories/team/=x", 1)
        with pytest.raises(interlock.Invalid, match="not an item"):
            store.get(MEMORIES, "x")
