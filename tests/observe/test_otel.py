"""Traces as OpenTelemetry's in-memory exporter gets them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import interlock
from interlock.backends.answers import entries_of
from interlock.core.transfer import rows_of
from interlock.observe import otel
from tests.facades import elsewhere
from tests.repository import ROOT

SECRET = "swordfish"


class Spans:
    """The spans that were made, by name."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == f"interlock.{name}"]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    otel.instrument(found.provider)
    yield found
    otel.uninstrument()


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == ids(parent)[1]


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def status(span: ReadableSpan) -> tuple[str, str | None]:
    return span.status.status_code.name, span.status.description


def events(span: ReadableSpan) -> list[tuple[str, Any]]:
    """Return the events of a span, each with its attributes but for the times."""
    return [
        (event.name, {k: v for k, v in (event.attributes or {}).items() if "seconds" not in k})
        for event in span.events
    ]


@pytest.mark.usefixtures("long_thoughts")
def test_an_update_is_a_span_with_its_thoughts_and_commits(spans: Spans, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with interlock.open(url, agent="us") as space, interlock.open(url, agent="other") as other:
        space.create("k", SECRET)
        tracer = spans.provider.get_tracer("user")

        def think(value: str) -> str:
            with tracer.start_as_current_span("interlock.llm"):
                if value == SECRET:
                    elsewhere(other.update, "k", lambda value: value + "!")
            return value + "?"

        space.update("k", think)
    theirs, update = spans.named("update")
    assert update.attributes == {
        "interlock.space": "default",
        "interlock.agent": "us",
        "interlock.key": "k",
        "interlock.attempts": 2,
    }
    refused = {"interlock.refusal": "Conflict", "interlock.other": "other"}
    assert events(update) == [
        ("thought", {"interlock.attempt": 1}),
        ("refused", refused),
        ("turn", {}),
        ("thought", {"interlock.attempt": 2}),
    ]
    assert status(update) == ("UNSET", None)
    first, last = (span for span in spans.named("commit") if is_below(span, update))
    assert first.attributes is not None
    assert first.attributes["interlock.refusal"] == "Conflict"
    assert last.attributes is not None
    assert last.attributes["interlock.position"] == 3
    assert all(is_below(span, update) for span in spans.named("llm"))
    assert not is_below(theirs, update)
    assert SECRET not in "".join(span.to_json() for span in spans.all())


async def test_an_asynchronous_update_is_traced_alike(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("user")

    async def think(value: Any) -> int:
        with tracer.start_as_current_span("interlock.llm"):
            return 1

    def think_in_thread(value: int) -> int:
        with tracer.start_as_current_span("interlock.llm"):
            return 2

    async with interlock.open_async("sqlite://", agent="us") as space:
        await space.update("k", think)
        await space.update("k", think_in_thread)
    for update, llm, commit in zip(
        spans.named("update"), spans.named("llm"), spans.named("commit"), strict=True
    ):
        assert is_below(llm, update)
        assert is_below(commit, update)
        assert events(update) == [("thought", {"interlock.attempt": 1})]


def test_a_function_that_raises_and_a_refusal_end_their_spans_as_errors(spans: Spans) -> None:
    def broken(value: Any) -> int:
        raise KeyError(SECRET)

    with interlock.open("sqlite://", agent="us") as space:
        with pytest.raises(KeyError):
            space.update("k", broken)
        with pytest.raises(interlock.Invalid):
            space.update("k", lambda value: None)
    first, second = spans.named("update")
    assert (status(first), status(second)) == (("ERROR", "KeyError"), ("ERROR", "Invalid"))
    assert events(first) == [
        ("thought", {"interlock.attempt": 1, "exception.type": "KeyError"}),
    ]
    assert SECRET not in first.to_json()


def test_steps_effects_leases_and_transactions_are_spans(spans: Spans) -> None:
    with interlock.open("sqlite://", agent="us") as space:
        with space.run("order") as run:
            run.step("book", lambda: run.tx.create("booking", 1))
            run.effect("pay", lambda key: "paid")
        with space.lease("k"):
            pass
        space.transact(lambda tx: tx.create("x", 1))
    assert spans.one("step").attributes is not None
    assert spans.one("step").attributes["interlock.key"] == "book"  # type: ignore[index]  # it has some
    assert spans.one("effect").attributes["interlock.key"] == "pay"  # type: ignore[index]  # it has some
    assert len([s for s in spans.named("commit") if is_below(s, spans.one("effect"))]) == 2
    assert events(spans.one("transact")) == [("thought", {"interlock.attempt": 1})]
    held = [span for span in spans.named("lease") if "k" in str(span.attributes)]
    assert held


def test_a_trace_leads_from_the_writer_to_who_acts_on_what_it_wrote(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("user")
    rules = {"in/*": interlock.merged("append"), "sum": interlock.guarded()}
    with interlock.open("sqlite://", agent="us", rules=rules) as space:
        with tracer.start_as_current_span("interlock.writer") as writer:
            space.append("in/a", 1)
        wrote = spans.named("commit")[-1]
        assert ids(wrote)[0] == writer.get_span_context().trace_id
        for entry in space.watch("in/", after=0):
            space.update("watched", lambda value: 1)
            with tracer.start_as_current_span("interlock.own", links=[otel.link(entry)]):  # type: ignore[list-item]  # it was traced
                break
        with space.group("readers", prefix="in/") as group:
            for delivery in group:
                with space.run("handle") as run:
                    run.step("handle", lambda: run.tx.create("handled", 1))
                group.ack(delivery)
                break
        space.coordinator(
            "sum", source="in/", merge=lambda total, n: total + n, initial=0, dedupe=None
        ).catch_up()
        space.create("after", 1)
    merged, after = spans.named("commit")[-2:]
    for span in (spans.one("update"), spans.one("own"), spans.one("step"), merged):
        assert linked(span) == [ids(wrote)], span.name
    assert linked(after) == []
    assert ids(spans.one("update"))[0] != ids(wrote)[0]


async def test_a_trace_leads_on_in_tasks(spans: Spans) -> None:
    async with interlock.open_async("sqlite://", agent="us") as space:
        await space.create("in", 1)
        (wrote,) = spans.named("commit")
        async for _ in space.watch("in", after=0):
            await space.update("watched", lambda value: 1)
            break
        async with space.group("readers", prefix="in") as group:
            async for delivery in group:
                await space.transact(transact)
                await group.ack(delivery)
                break
    assert linked(spans.one("update")) == linked(spans.one("transact")) == [ids(wrote)]


async def transact(tx: interlock.AsyncTx) -> None:
    tx.create("handled", 1)


def test_the_three_agents_are_traced(
    spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    importlib.import_module("three_agents").main(f"sqlite:///{tmp_path / 'store.db'}")
    sys.modules.pop("three_agents")
    found = [
        ids(span)
        for span in spans.named("commit")
        if span.attributes
        and span.attributes["interlock.agent"] == "researcher"
        and span.attributes["interlock.keys"] == ("findings",)
    ]
    *lines, _, signed = sorted(spans.named("update"), key=lambda span: span.start_time or 0)
    assert [linked(span) for span in lines[:3]] == [[each] for each in found]
    assert len(found) == 3
    assert signed.attributes is not None


def test_what_makes_no_spans_is_refused() -> None:
    with pytest.raises(interlock.Invalid, match="'jaeger' is not a TracerProvider"):
        otel.instrument("jaeger")  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize("reads", [None, {}, {"a": 1}])
@pytest.mark.parametrize("trace", [None, "00-1-2-01"])
def test_a_copy_keeps_the_trace_of_an_entry(reads: Any, trace: str | None) -> None:
    entry = interlock.Entry(1, "k", 1, 0, "put", 7, "us", 1, "op", reads, trace)
    assert entries_of(rows_of([entry])) == [entry]


def test_an_entry_that_was_not_traced_has_no_link() -> None:
    with interlock.open("sqlite://") as space:
        space.create("k", 1)
        (entry,) = space.log(prefix="k")
    assert entry.trace is None
    assert otel.link(entry) is None
    assert otel.link(entry._replace(trace="nonsense")) is None
