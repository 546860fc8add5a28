"""What a space tells of itself: hooks, the log and metrics say the same on every store."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import interlock
from interlock.observe import otel
from tests.facades import Facades, elsewhere

SECRET = "swordfish"


def provoke(facades: Facades, space: Any) -> None:
    """Have each thing happen once that is told of, to the agent `us`."""
    other = facades.peer("other")
    space.create("k", SECRET)

    def think(value: Any) -> Any:
        if value == SECRET:
            elsewhere(other.update, "k", lambda value: value + "!")
        return value + "?"

    space.update("k", think)
    with pytest.raises(interlock.IllegalTransition):
        space.create("booking/1", {"status": "COMPLETED"})
    with pytest.raises(interlock.Invalid, match=SECRET):
        space.create("booking/1", {"status": SECRET})
    with space.lease("k"):
        other.reclaim("k")
    facades.open("us", exclusive=True)
    with pytest.raises(interlock.Fenced):
        space.create("never", SECRET)


RULES = {"booking/*": interlock.guarded(machine=interlock.BOOKING)}


@pytest.mark.usefixtures("long_thoughts")
def test_hooks_are_told_who_met_whom_at_which_key(facades: Facades) -> None:
    space = facades.open("us", rules=RULES, exclusive=True)
    told: list[Any] = []
    for event in ("commit", "refusal", "turn", "lease"):
        space.on(event, told.append)
    provoke(facades, space)
    space.close()
    seen = [(each.event, each.key) for each in told]
    assert seen == [
        ("commit", "k"),
        ("conflict", "k"),
        ("turn", "k"),
        ("commit", "k"),
        ("illegal_transition", "booking/1"),
        ("invalid", "booking/1"),
        ("lease", "k"),
        ("fenced", ""),
    ]
    assert {each.agent for each in told} == {"us"}
    assert {each.space for each in told} == {facades.space}
    conflict, turn, commit = told[1:4]
    assert (conflict.other, conflict.reason, conflict.attempts) == ("other", "Conflict", 1)
    assert (turn.ahead, commit.attempts, commit.keys) == (0, 2, ("k",))
    assert commit.op_id == conflict.op_id
    assert commit.position == told[0].position + 2
    assert commit.seconds > 0
    assert told[6].epoch == 1
    assert SECRET not in repr(told)


def test_the_log_names_keys_and_agents_and_never_a_value(
    facades: Facades, caplog: pytest.LogCaptureFixture
) -> None:
    space = facades.open("us", rules=RULES, exclusive=True)
    with caplog.at_level(logging.DEBUG, "interlock"):
        provoke(facades, space)
    ours = [record for record in caplog.records if record.name == "interlock"]
    name = f"space={facades.space!r}"
    assert [record.getMessage() for record in ours] == [
        f"{name} Conflict: key='k' agent='us' other='other' attempt=1",
        f"{name} IllegalTransition: key='booking/1' agent='us'",
        f"{name} Invalid: key='booking/1' agent='us'",
        f"{name} Reclaimed: key='k' agent='other' epoch=2",
        f"{name} Agent name taken over: agent='us' incarnation=2",
        f"{name} Fenced: key='' agent='us'",
    ]
    assert {record.levelname for record in ours} == {"WARNING"}
    assert ours[0].interlock.other == "other"  # type: ignore[attr-defined]  # an extra
    assert SECRET not in caplog.text


@pytest.mark.usefixtures("long_thoughts")
def test_metrics_count_what_an_agent_did(facades: Facades) -> None:
    space = facades.open("us", rules=RULES, exclusive=True)
    provoke(facades, space)
    found = space.metrics()
    assert found.space == facades.space
    assert found.commits == {"us": 2}
    assert found.refusals == {
        "us": {"Conflict": 1, "Fenced": 1, "IllegalTransition": 1, "Invalid": 1}
    }
    assert (found.thoughts, found.thought_commits) == (2, 1)
    assert found.thoughts_per_commit.mean == found.average_attempts == 2.0
    assert found.conflict_rate == pytest.approx(1 / 3)
    assert 0 < found.throughput_impact < 1
    assert (found.commit_seconds.count, found.turn_seconds.count) == (2, 1)
    assert (found.queue_lengths.count, found.queue_lengths.sum) == (1, 0)
    assert (found.lease_seconds.count, found.leases, found.lease_age) == (1, 0, 0)
    assert found.lease_seconds.sum > 0
    assert found.waiting == 0
    assert found.to_dict()["conflicts"] == found.conflicts == 1
    other = facades.open("supervisor")
    other.reclaim("k")
    assert other.metrics().reclaims == 1


def test_a_lease_ages_while_it_is_held(facades: Facades) -> None:
    space = facades.open("us")
    with space.lease("k"):
        first = space.metrics()
        assert first.leases == 1
        assert space.metrics().lease_age > first.lease_age > 0
    assert space.metrics().leases == 0


def test_a_transaction_and_a_step_count_as_thoughts_and_own_keys_do_not(facades: Facades) -> None:
    space = facades.open("us")
    space.transact(lambda tx: tx.create("a", 1))
    with space.run("order") as run:
        run.step("book", lambda: run.tx.create("b", 1))
    found = space.metrics()
    assert found.commits == {"us": 2}
    assert found.thought_commits == found.thoughts == 2


def test_the_trace_of_a_commit_is_kept_with_its_entries(facades: Facades) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    space = facades.open("us", rules={"log": interlock.merged("append")})
    otel.instrument(provider)
    try:
        space.create("a", 1)
        with space.transaction() as tx:
            tx.create("b", 1)
        with space.transaction() as tx:
            tx.expect(space.read("a"))
            tx.create("c", 1)
        space.append("log", 1)
        with space.group("readers", prefix="log") as group:
            (delivery,) = group.take(1)
        space.update("d", lambda value: 1)
    finally:
        otel.uninstrument()
    space.create("e", 1)
    entries = {entry.key: entry for entry in space.log()}
    ids: dict[str, str] = {}
    spans: list[Any] = [s for s in exporter.get_finished_spans() if s.name == "interlock.commit"]
    for span in spans:
        trace = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
        ids |= dict.fromkeys(span.attributes["interlock.keys"], trace)
    traces = {key: (entries[key].trace or "")[:-3] for key in ("a", "b", "c", "log", "d")}
    assert traces == {key: ids[key] for key in traces}
    assert delivery.entry.trace == entries["log"].trace
    reads = [entries[key].reads for key in ("a", "b", "c", "log", "d", "e")]
    assert reads == [None, {}, {"a": 1}, None, None, None]
    assert entries["e"].trace is None


def test_nothing_is_told_after_a_hook_was_taken_off(facades: Facades) -> None:
    space = facades.open("us")
    told: list[str] = []
    space.on("commit", lambda commit: told.append(f"kept {commit.key}"))
    off = space.on("commit", lambda commit: told.append(commit.key))
    off()
    off()
    space.create("a", 1)
    space.close()
    assert told == ["kept a"]
