"""Scoring a simulation: from what agents reported and what the store holds to the table."""

from __future__ import annotations

import json

import pytest

from interlock.verify.simulate.results import (
    Acknowledged,
    Ended,
    Event,
    Mark,
    Ready,
    Result,
    Thought,
    score,
)
from interlock.verify.simulate.settings import Settings

START = 1000.0


def scored(events: list[Event], kept: set[str], agents: int = 2, think: float = 0.5) -> Result:
    settings = Settings(agents=agents, think=(think, think))
    return score("some-pattern", settings, events, START, kept)


def told(agent: int, over: float, item: str) -> list[Event]:
    """An agent that thought for a second and was told that its item is written."""
    return [
        Ready(agent),
        Thought(agent, START + over - 1, START + over),
        Acknowledged(agent, item, START + over),
        Ended(agent, None, START + over + 0.5),
    ]


def test_an_acknowledged_item_that_the_store_does_not_hold_is_lost() -> None:
    result = scored([*told(0, 1.0, "a"), *told(1, 1.5, "b")], {"b"})
    assert (result.acknowledged, result.kept, result.lost, result.failed) == (2, 1, 1, 0)
    assert set(result.marks) == {Mark(0, 1.0, "lost"), Mark(1, 1.5, "kept")}
    assert result.thoughts == 1.0


def test_items_of_an_earlier_run_are_not_counted() -> None:
    result = scored([*told(0, 1.0, "a"), *told(1, 1.5, "b")], {"a", "b", "of an earlier run"})
    assert (result.acknowledged, result.kept, result.lost) == (2, 2, 0)


def test_an_item_that_was_written_but_not_acknowledged_is_neither_kept_nor_lost() -> None:
    result = scored([*told(0, 1.0, "a"), Ended(1, "died", START + 2)], {"a", "b"})
    assert (result.acknowledged, result.kept, result.lost, result.failed) == (1, 1, 0, 1)


def test_what_an_agent_was_told_before_it_died_still_counts() -> None:
    events: list[Event] = [
        *told(0, 1.0, "a"),
        Acknowledged(1, "b", START + 1),
        Ended(1, "died: killed by SIGKILL", START + 2),
    ]
    result = scored(events, {"a"})
    assert (result.acknowledged, result.lost, result.failed) == (2, 1, 1)
    assert result.errors == {"died: killed by SIGKILL": 1}
    assert Mark(1, 2.0, "failed") in result.marks


def test_the_time_runs_from_the_start_to_the_last_write_or_failure() -> None:
    assert scored([*told(0, 1.0, "a"), *told(1, 3.0, "b")], {"b"}).seconds == 3.0
    failing: list[Event] = [*told(0, 1.0, "a"), Ended(1, "gave up", START + 4)]
    assert scored(failing, {"a"}).seconds == 4.0
    before: list[Event] = [Ended(0, "no file", START - 5), Ended(1, "no file", START - 5)]
    assert scored(before, set()).seconds == 0.0


def test_how_many_think_at_once_is_counted() -> None:
    overlapping = scored([*told(0, 1.0, "a"), *told(1, 1.5, "b")], {"a", "b"})
    assert overlapping.most_at_once() == 2
    in_turn = scored([*told(0, 1.0, "a"), *told(1, 2.0, "b")], {"a", "b"})
    assert in_turn.most_at_once() == 1
    assert "never more than one agent thought at a time" in in_turn.sentence()


def test_the_json_object_has_exactly_the_promised_fields() -> None:
    result = scored([*told(0, 1.0, "a"), *told(1, 1.5, "b")], {"b"})
    assert json.loads(json.dumps(result.as_json())) == {
        "pattern": "some-pattern",
        "agents": 2,
        "acknowledged": 2,
        "kept": 1,
        "lost": 1,
        "failed": 0,
        "thoughts": 1.0,
        "seconds": 1.5,
    }
    assert isinstance(result.as_json()["thoughts"], float)


@pytest.mark.parametrize(
    ("second", "kept", "sentence"),
    [
        (
            told(1, 1.5, "b"),
            {"b"},
            "1 of 2 acknowledged writes are gone, and the agents that made them were told that "
            "they had succeeded.",
        ),
        (
            [Ended(1, "gave up", START + 2)],
            set(),
            "1 of 1 acknowledged writes are gone, and the agents that made them were told that "
            "they had succeeded; 1 of 2 agents failed.",
        ),
        (
            [Ended(1, "gave up", START + 2)],
            {"a"},
            "nothing acknowledged was lost, but 1 of 2 agents failed; "
            "each agent thought 0.50 times on average.",
        ),
        (
            told(1, 1.5, "b"),
            {"a", "b"},
            "nothing was lost and nobody failed; each agent thought 1.00 times on average, "
            "in 1.5 s, 1.50 times the serial time.",
        ),
    ],
)
def test_one_sentence_says_what_happened(
    second: list[Event], kept: set[str], sentence: str
) -> None:
    assert scored([*told(0, 1.0, "a"), *second], kept).sentence() == sentence


@pytest.mark.parametrize(
    ("over", "think", "shown"),
    [(0.25, 0.5, "0.25 s (0.25x)"), (4.3, 2.0, "4.3 s (1.07x)"), (1.0, 0.0, "1.0 s")],
)
def test_wall_time_stands_beside_the_serial_time(over: float, think: float, shown: str) -> None:
    result = scored([*told(0, over, "a"), *told(1, over, "b")], {"a", "b"}, think=think)
    assert result.wall_time() == shown
