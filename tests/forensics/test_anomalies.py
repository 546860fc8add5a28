"""The anomaly detectors: what was planted is found, near misses are not, brute force agrees."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from interlock.core.merge import same
from interlock.forensics import BadTrace, Operation, Report, find_anomalies, stale


def op(id: str, agent: str, read_time: float, write_time: float, **rest: Any) -> Operation:
    return Operation("s", id, agent, read_time, write_time, **rest)


def kinds(*operations: Operation) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.kind, each.operations) for each in find_anomalies(operations).anomalies]


def level(*operations: Operation) -> int:
    return find_anomalies(operations).sessions[0].level


READER = op("i", "ann", 1, 5, read_set={"k": 1})
STALE = [READER, op("j", "ben", 0, 3, write_set={"k": 2})]
PHANTOM = op("p", "ann", 1, 2, planned_tools=("a", "b"), tools_at_read=("a", "b"))
SWAPPED = op("r", "ann", 1, 2, intended_effects=(1, 2), committed_effects=(2, 1))
ABORTED = op("x", "ann", 1, 2, aborted=True)


def test_a_stale_generation_is_told() -> None:
    (found,) = find_anomalies([READER, *STALE[1:], op("l", "cy", 0, 4, write_set={"k": 3})])[2]
    assert (found.key, found.other_time, found.shown, found.more) == ("k", 3, ("1", "2"), 1)
    assert found.sentence == (
        "'i' of agent 'ann' read 'k' as 1 (it read at 1) and wrote at 5, but 'j' of agent 'ben' "
        "wrote 2 to it at 3, and 1 more wrote it meanwhile"
    )
    assert found.to_json()["operations"] == ("i", "j")


@pytest.mark.parametrize(
    ("agent", "write_time", "written", "guilty"),
    [
        ("ben", 3, {"k": 2}, True),
        ("ben", 3, {"k": 1}, False),  # the same value
        ("ben", 3, {"k": 1.0}, True),  # another value of JSON, as true would be
        ("ben", 3, {"k": True}, True),
        ("ben", 3, {"l": 2}, False),  # another key
        ("ann", 3, {"k": 2}, False),  # the same agent
        ("ben", 1, {"k": 2}, False),  # at the moment of the read
        ("ben", 5, {"k": 2}, False),  # at the moment of the write
        ("ben", 1.5, {"k": 2}, True),
        ("ben", 0.5, {"k": 2}, False),
        ("ben", 6, {"k": 2}, False),
    ],
)
def test_the_window_of_a_stale_generation_is_strict(
    agent: str, write_time: float, written: dict[str, Any], guilty: bool
) -> None:
    other = op("j", agent, 0, write_time, write_set=written)
    assert kinds(READER, other) == ([("stale generation", ("i", "j"))] if guilty else [])


def test_each_key_may_have_its_own_read_time() -> None:
    both = READER._replace(read_set={"k": 1, "l": 1}, read_times={"k": 4})
    other = op("j", "ben", 0, 3, write_set={"k": 2, "l": 2})
    (found,) = find_anomalies([both, other]).anomalies
    assert (found.key, found.read_time) == ("l", 1)
    (found,) = find_anomalies([both._replace(read_times={"l": 3, "k": 2}), other]).anomalies
    assert (found.key, found.read_time) == ("k", 2)


def test_objects_are_the_same_in_any_order_and_lists_are_not() -> None:
    value = {"a": [1, 2], "b": None}
    reader = op("i", "ann", 1, 5, read_set={"k": value})
    same_value = op("j", "ben", 0, 3, write_set={"k": {"b": None, "a": [1, 2]}})
    other_value = op("j", "ben", 0, 3, write_set={"k": {"b": None, "a": [2, 1]}})
    assert kinds(reader, same_value) == []
    assert kinds(reader, other_value) == [("stale generation", ("i", "j"))]


def test_sessions_share_nothing() -> None:
    apart = [STALE[0], STALE[1]._replace(session="t")]
    report = find_anomalies([*apart, ABORTED._replace(session="t")])
    assert [(s.session, s.operations, s.level) for s in report.sessions] == [
        ("s", 1, 4),
        ("t", 2, 4),
    ]
    assert report.anomalies == ()


@pytest.mark.parametrize(
    ("at_read", "at_write", "gone"),
    [
        (("a", "b"), ("a", "b"), []),
        (("a", "b"), ("b",), ["a"]),
        (("b", "a"), (), ["a", "b"]),
        (("b",), ("b",), []),  # "a" was never there: nothing vanished
        (("a", "b"), ("c", "b", "a"), []),
        (("a", "b", "c"), ("a", "b"), []),  # not planned
    ],
)
def test_a_phantom_tool_was_there_and_is_gone(
    at_read: tuple[str, ...], at_write: tuple[str, ...], gone: list[str]
) -> None:
    asked = PHANTOM._replace(tools_at_read=at_read, tools_at_write=at_write)
    found = find_anomalies([asked]).anomalies
    assert [each.tool for each in found] == gone
    assert all("was gone when it wrote at 2" in each.sentence for each in found)


@pytest.mark.parametrize(
    ("intended", "committed", "reordered"),
    [
        ([1, 2], [2, 1], True),
        ([1, 2], [1, 2], False),
        ([1, 1], [1, 1], False),  # the identity, however the two are swapped
        ([1, 1, 2], [1, 2, 1], True),
        ([1, 2], [2], False),  # something is missing: no permutation
        ([1, 2], [2, 1, 1], False),
        ([1, 2], [2, 3], False),
        ([1], [1], False),
        ([], [], False),
        ([{"a": 1, "b": 2}, "x"], ["x", {"b": 2, "a": 1}], True),
    ],
)
def test_reordering_is_a_permutation_that_is_not_the_identity(
    intended: list[Any], committed: list[Any], reordered: bool
) -> None:
    done = op("r", "a", 0, 1, intended_effects=(*intended,), committed_effects=(*committed,))
    assert kinds(done) == ([("tool-effect reordering", ("r",))] if reordered else [])


def test_a_cascade_is_transitive_and_tells_the_nearest() -> None:
    chain = [
        op("d", "dan", 7, 8, predecessors=("c",)),
        ABORTED,
        op("b", "ben", 3, 4, predecessors=("x",)),
        op("c", "cy", 5, 6, predecessors=("b", "free")),
        op("free", "eve", 0, 1),
    ]
    report = find_anomalies(chain)
    assert [(a.operations, a.through) for a in report.anomalies] == [
        (("d", "x"), "c"),
        (("b", "x"), None),
        (("c", "x"), "b"),
    ]
    assert report.anomalies[0].sentence == (
        "'d' of agent 'dan' stands, but depends on 'x' of agent 'ann', which was aborted, "
        "through 'c'"
    )


def test_an_aborted_operation_may_depend_on_an_aborted_one() -> None:
    both = [ABORTED, op("y", "ben", 3, 4, predecessors=("x",), aborted=True)]
    assert kinds(*both) == []
    assert kinds(*both, op("z", "cy", 5, 6, predecessors=("y",))) == [
        ("causal cascade", ("z", "y")),
    ]


def test_a_circle_of_dependencies_ends() -> None:
    circle = [op("a", "a", 0, 1, predecessors=("b",)), op("b", "b", 0, 1, predecessors=("a", "x"))]
    assert [found[1] for found in kinds(*circle, ABORTED)] == [("a", "x"), ("b", "x")]


def test_levels_are_a_ladder() -> None:
    cascade = [ABORTED, op("y", "ben", 3, 4, predecessors=("x",))]
    assert level(*STALE, *cascade, SWAPPED, PHANTOM) == 0
    assert level(*cascade, SWAPPED, PHANTOM) == 1
    assert level(SWAPPED, PHANTOM) == 2
    assert level(PHANTOM) == 3
    assert level(READER) == 4


def test_what_was_not_recorded_is_told() -> None:
    assert find_anomalies([READER]).sessions[0].unseen == (
        "causal cascade",
        "tool-effect reordering",
        "phantom tool",
    )
    every = op("y", "ben", 3, 4, read_set={"k": 1}, predecessors=("x",), planned_tools=("t",))
    assert find_anomalies([ABORTED, every, SWAPPED]).sessions[0].unseen == ()
    assert find_anomalies([]) == Report(0, (), ())


def test_ids_are_unique_and_predecessors_are_there() -> None:
    with pytest.raises(BadTrace, match=r"t, line 2: id is there twice in session 's': 'x'; line 1"):
        find_anomalies([ABORTED, ABORTED], "t")
    with pytest.raises(BadTrace, match=r"line 2: predecessors names an operation that is not"):
        find_anomalies([ABORTED, op("y", "b", 0, 1, predecessors=("nobody",))])


def drawn(seed: int) -> list[Operation]:
    """A small trace in which much collides."""
    chance = random.Random(seed)
    size = chance.choice([2, 3, 5, 8, 25])
    keys, values = ["k", "l"][: chance.randint(1, 2)], [1, 2, True, None][: chance.randint(2, 4)]
    agents = ["ann", "ben", "cy"][: chance.randint(1, 3)]
    ids = [f"o{n}" for n in range(size)]
    tools = ["a", "b", "c"]

    def some(things: list[Any]) -> tuple[Any, ...]:
        return tuple(chance.sample(things, chance.randint(0, len(things))))

    def operation(id: str) -> Operation:
        read_time = chance.randint(0, 6)
        write_time = read_time + chance.randint(0, 6)
        read_set = {key: chance.choice(values) for key in some(keys)}
        effects = [chance.randint(1, 2) for _ in range(chance.randint(0, 3))]
        return op(
            id,
            chance.choice(agents),
            read_time,
            write_time,
            read_set=read_set,
            write_set={key: chance.choice(values) for key in some(keys)},
            planned_tools=some(tools),
            tools_at_read=some(tools),
            tools_at_write=some(tools),
            intended_effects=tuple(effects),
            committed_effects=tuple(chance.sample(effects, len(effects))),
            predecessors=some([other for other in ids if other != id])[: chance.randint(0, 2)],
            aborted=chance.random() < 0.15,
            read_times={key: chance.randint(0, write_time) for key in read_set if len(id) % 2},
        )

    return [operation(id) for id in ids]


def by_brute_force(trace: list[Operation]) -> Iterator[tuple[Any, ...]]:
    """The definitions, word for word: every pair, every key, every path."""
    for i in trace:
        for key in i.read_set:
            late = [
                j
                for j in trace
                if j.agent != i.agent
                and key in j.write_set
                and i.read_times.get(key, i.read_time) < j.write_time < i.write_time
                and not same(i.read_set[key], j.write_set[key])
            ]
            if late:
                first = min(late, key=lambda j: j.write_time)  # of several, the first in the trace
                yield "stale generation", (i.id, first.id), key, None, len(late) - 1
        for tool in i.planned_tools:
            if tool in i.tools_at_read and tool not in i.tools_at_write:
                yield "phantom tool", (i.id,), None, tool, 0
        intended, committed = i.intended_effects, i.committed_effects
        if len(intended) >= 2 and intended != committed and sorted(intended) == sorted(committed):
            yield "tool-effect reordering", (i.id,), None, None, 0


def distances(trace: list[Operation], start: Operation) -> dict[str, int]:
    """How many dependencies lie between an operation and each that it depends on."""
    known = {operation.id: operation for operation in trace}
    far, edge = {start.id: 0}, [start.id]
    while edge:
        edge = [p for id in edge for p in known[id].predecessors if far.setdefault(p, -1) == -1]
        far.update(dict.fromkeys(edge, max(far.values()) + 1))
    return far


@pytest.mark.parametrize("block", range(10))
def test_brute_force_agrees(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if block % 2:  # count even the shortest windows by the index
        monkeypatch.setattr(stale, "_FEW", 0)
    levels = set()
    for seed in range(block * 500, block * 500 + 500):
        trace = drawn(seed)
        report = find_anomalies(trace)
        told = [a for a in report.anomalies if a.kind != "causal cascade"]
        assert sorted(
            (a.kind, a.operations, str(a.key), str(a.tool), a.more) for a in told
        ) == sorted((k, o, str(key), str(tool), n) for k, o, key, tool, n in by_brute_force(trace))
        cascades = {a.operations[0]: a for a in report.anomalies if a.kind == "causal cascade"}
        for operation in trace:
            far = distances(trace, operation)
            roots = [other for other in trace if other.aborted and other.id in far]
            guilty = bool(roots) and not operation.aborted
            assert (operation.id in cascades) == guilty, seed
            if guilty:
                found = cascades[operation.id]
                assert far[found.operations[1]] == min(far[root.id] for root in roots), seed
                assert (found.through or found.operations[1]) in operation.predecessors
        levels.add(report.sessions[0].level)
    assert levels == {0, 1, 2, 3, 4}
