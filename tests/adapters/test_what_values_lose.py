"""What the defaults of the second wave lose, call by call acknowledged; and that ours keep it.

As `test_what_each_loses`, for stores of values and sessions.
"""

from __future__ import annotations

from typing import Any

from key_value.aio.stores.memory import MemoryStore

from interlock.adapters.fastmcp import KeyValueStore
from interlock.adapters.kv import KeyValue
from interlock.verify.frameworks import check_key_value, check_session_state
from tests.adapters.test_what_each_loses import PATIENCE, counts, maker
from tests.processes.writers import Place

# Whatever has a get and a set


class Plain:
    """A dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def set(self, name: str, value: Any) -> None:
        self.values[name] = value


LOST = {
    "parallel_writers": (5, 1),
    "different_names": (5, 5),
    "read_in_a_child_task": (5, 1),
    "blind_writers": (6, 1),
    "zombie_writer": (2, 1),
}
KEPT = {
    "parallel_writers": (5, 5),
    "different_names": (5, 5),
    "read_in_a_child_task": (5, 5),
    "blind_writers": (1, 1),  # what was there; the others are told
    "zombie_writer": (1, 1),
}


def test_a_dictionary_loses_what_is_set_over_it() -> None:
    plain = Plain()
    assert counts(check_key_value(lambda: plain)) == LOST


def test_our_key_value_keeps_it(place: Place) -> None:
    report = check_key_value(maker(place, KeyValue), patience=PATIENCE)
    assert counts(report) == KEPT, report


def test_our_key_value_keeps_it_with_asyncio(tmp_path: Any) -> None:
    make = maker(Place(f"sqlite:///{tmp_path / 'store.db'}", "s"), KeyValue, asynchronous=True)
    report = check_key_value(make, get="aget", set="aset", patience=PATIENCE)
    assert counts(report) == KEPT, report


# FastMCP and py-key-value


def test_fastmcp_loses_keys_of_a_session() -> None:
    store = MemoryStore()
    assert counts(check_session_state(lambda: store)) == {
        "different_keys": (5, 1),
        "same_key": (5, 1),
    }
    assert counts(check_key_value(lambda: store, set="put")) == LOST


def test_our_store_for_fastmcp_keeps_them(place: Place) -> None:
    report = check_session_state(maker(place, KeyValueStore, asynchronous=True), patience=PATIENCE)
    assert counts(report) == {"different_keys": (5, 5), "same_key": (5, 5)}, report


def test_our_store_for_py_key_value_keeps_them(tmp_path: Any) -> None:
    make = maker(Place(f"sqlite:///{tmp_path / 'store.db'}", "s"), KeyValueStore)
    assert counts(check_key_value(make, set="put", patience=PATIENCE)) == KEPT
