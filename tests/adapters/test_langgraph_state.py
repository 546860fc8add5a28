"""Reducers for a LangGraph state, and the check that finds keys and reducers that lose updates."""

from __future__ import annotations

import copy
import operator
import uuid
from dataclasses import dataclass, field
from enum import Enum
from types import new_class
from typing import Annotated, Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.graph import START, StateGraph, add_messages
from pydantic import BaseModel

from interlock import REDUCERS
from interlock.adapters.langgraph import (
    append,
    check_state,
    counter,
    deep_merge,
    last_writer,
    maximum,
    minimum,
    union,
)
from interlock.adapters.langgraph.reducers import OURS
from interlock.adapters.langgraph.state import UnknownType, values_of

JSON = st.recursive(
    st.none() | st.integers(-3, 3) | st.sampled_from("ab"),
    lambda inner: st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)
ITEMS: dict[Any, st.SearchStrategy[Any]] = {
    append: JSON.filter(lambda item: item is not None),
    union: JSON.filter(lambda item: item is not None) | st.lists(JSON, max_size=2),
    counter: st.integers(-5, 5),
    maximum: st.integers(-5, 5),
    minimum: st.integers(-5, 5),
    deep_merge: st.dictionaries(st.sampled_from("xy"), JSON, max_size=2),
    last_writer: JSON,
}


@pytest.mark.parametrize("reducer", OURS, ids=lambda reducer: reducer.__name__)
@given(data=st.data())
def test_a_reducer_folds_as_the_merged_key_of_its_name(reducer: Any, data: st.DataObject) -> None:
    items = data.draw(st.lists(ITEMS[reducer], min_size=1, max_size=5))
    before, value = copy.deepcopy(items), None
    for item in items:
        value = reducer(value, item)
    assert value == REDUCERS[reducer.__name__].fold(items)
    assert items == before, "it changes nothing that it is given"
    assert reducer(value, None) == (None if reducer is last_writer else value)


def test_lists_and_sets_contribute_their_items() -> None:
    assert append([1], [2, 3]) == append([1], (2, 3)) == [1, 2, 3]
    assert append(append(None, 1), [[2]]) == [1, [2]]
    assert union({1}, {2}) == union(None, {1, 2}) == union({1}, [2]) == {1, 2}
    assert union([2], [1, 2]) == [1, 2]


class Kept(TypedDict):
    findings: Annotated[list[str], append]
    seen: Annotated[set[int], union]
    found: Annotated[dict[str, Any], deep_merge]
    count: Annotated[int, counter]
    best: Annotated[int | None, maximum]
    worst: Annotated[int | None, minimum]


def test_parallel_nodes_keep_all_with_the_reducers() -> None:
    builder: Any = StateGraph(Kept)

    def node(number: int) -> Any:
        return lambda state: {
            "findings": f"f{number}",
            "seen": {number},
            "found": {"by": {str(number): True}},
            "count": 1,
            "best": -number,
            "worst": -number,
        }

    for number in range(1, 9):
        builder.add_node(f"n{number}", node(number))
        builder.add_edge(START, f"n{number}")
    assert builder.compile().invoke({}) == {
        "findings": [f"f{n}" for n in range(1, 9)],
        "seen": {*range(1, 9)},
        "found": {"by": {str(n): True for n in range(1, 9)}},
        "count": 8,
        "best": -1,
        "worst": -8,
    }
    report = check_state(builder)
    assert report.ok, str(report)
    assert check_state(builder.compile()) == report
    assert ("count", "an update that is delivered twice counts twice") in {
        (note.key, note.what) for note in report.notes
    }


# Planted faults


def extend(value: list[str], update: list[str]) -> list[str]:
    value.extend(update)
    return value


def average(value: float, update: float) -> float:
    return (value + update) / 2


def stamped(value: list[str], update: list[str]) -> list[str]:
    return [*value, *update, uuid.uuid4().hex]


def longest_two(value: list[str], update: list[str]) -> list[str]:
    return [*value, *update][-2:]


FAULTS: dict[str, tuple[Any, str, str]] = {
    "plain": (list[str], "no reducer", "Annotated[list[str], append]"),
    "plain_text": (str, "no reducer", "last_writer"),
    "dict_add": (Annotated[dict[str, int], operator.add], "TypeError", "deep_merge"),
    "later": (Annotated[int, lambda value, update: update], "comes last decides", "counter"),
    "minus": (Annotated[int, operator.sub], "not associative", "counter"),
    "average": (Annotated[float, average], "not associative", "counter"),
    "fields": (Annotated[dict[str, int], operator.or_], "comes last decides", "deep_merge"),
    "in_place": (Annotated[list[str], extend], "changes its arguments", "new value"),
    "luck": (Annotated[list[str], stamped], "two results", "random"),
    "cut": (Annotated[list[str], longest_two], "comes last decides", "append"),
}


@pytest.mark.parametrize("kind", ["typeddict", "dataclass", "pydantic"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_fault_is_found_and_the_fix_named(kind: str, fault: str, seed: int) -> None:
    hint, what, fix = FAULTS[fault]
    hints = {fault: hint, "good": Annotated[list[str], append]}
    base: tuple[Any, ...] = {"typeddict": (TypedDict,), "pydantic": (BaseModel,)}.get(kind, ())
    body = {"__annotations__": hints, "__module__": __name__}
    schema: Any = new_class("Planted", base, exec_body=lambda names: names.update(body))
    schema = dataclass(schema) if kind == "dataclass" else schema
    report = check_state(schema, seed=seed)
    (problem,) = report.problems
    assert problem.key == fault
    assert what in problem.what
    assert fix in problem.fix
    assert not report.ok
    for said in ("Planted: 2 keys, 1 problem", problem.what, problem.fix):
        assert said in str(report)
    assert check_state(schema, seed=seed) == report, "the same seed, the same report"


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Note:
    text: str
    by: int = field(default=0, init=False)


class Fine(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    names: Annotated[list[str], operator.add]
    flags: Annotated[bool, operator.or_]
    kinds: Annotated[set[Colour], operator.or_]
    notes: Annotated[list[Note], operator.add]
    pairs: Annotated[tuple[tuple[int, str], ...], operator.add]
    plan: str
    chosen: Annotated[Literal["a", "b"], last_writer]


def test_what_is_in_order_is_no_problem() -> None:
    report = check_state(Fine, one_writer=["plan"])
    assert report.problems == (), str(report)
    assert {note.key for note in report.notes} >= {"messages", "names", "notes", "chosen"}
    assert report.schema == "Fine"
    assert set(report.keys) == set(Fine.__annotations__)


class Foreign:
    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foreign) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]  # a value that changes


def keep_mine(value: Foreign, update: Foreign) -> Foreign:
    return update


class Unheard(TypedDict):
    thing: Annotated[Foreign, keep_mine]


def test_a_type_without_samples_is_said_and_samples_help() -> None:
    (note,) = check_state(Unheard).notes
    assert "not tried" in note.what
    report = check_state(Unheard, samples={"thing": [Foreign([1]), Foreign([2])]})
    assert "comes last" in report.problems[0].what


def test_a_reducer_that_langgraph_refuses_is_a_problem() -> None:
    class Wrong(TypedDict):
        items: Annotated[list[int], lambda one: one]

    (problem,) = check_state(Wrong).problems
    assert "LangGraph refuses" in problem.what


@pytest.mark.parametrize(
    "hint", [dict[str, list[int]], tuple[int, str], str | None, frozenset[bytes], Fine, Note, Any]
)
def test_values_of_a_type_differ_and_are_the_same_each_time(hint: Any) -> None:
    if hint is Fine:
        hint = Kept
    values = [*map(repr, values_of(hint))]
    assert values == [*map(repr, values_of(hint))]
    assert len(set(values)) > 2


def test_a_foreign_type_has_no_values() -> None:
    with pytest.raises(UnknownType):
        values_of(Foreign)
