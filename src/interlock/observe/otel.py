"""Traces for OpenTelemetry: `otel.instrument()`.

Spans are begun for update, transaction, step, effect and the wait for a lease, each with an event
for every thought, turn and refusal, and for every commit.  The context of the commit's span is kept
with its entries.  Whoever handles an entry (`watch`, a group, a coordinator) and then acts has a
span that is linked to it: so a trace leads from the writer to the reader.  No span holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar, Token
from time import perf_counter
from typing import TYPE_CHECKING, Any

from interlock.core.conflict_report import note
from interlock.core.group import Deliveries
from interlock.core.records import Committed, Entry
from interlock.core.refusals import Refusal
from interlock.core.requests import Commit, LogPage, Place, Request, TakeTurn, Think
from interlock.errors import Invalid
from interlock.extras import needs
from interlock.observe import observer
from interlock.observe.observer import Doing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, TracerProvider

_MOST_LINKS = 32
_TRACE = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_handled: ContextVar[tuple[str, ...]] = ContextVar("interlock_handled", default=())


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Trace what the spaces of this process do from now on.

    `tracer_provider`: who makes the spans (None: the global one).  A second call replaces the
    first.  Raises Invalid, NotInstalled.
    """
    with needs("opentelemetry-api", "otel"):
        import opentelemetry.trace
    if not isinstance(tracer_provider, opentelemetry.trace.TracerProvider | None):
        raise Invalid(f"{tracer_provider!r:.60} is not a TracerProvider of OpenTelemetry.")

    tracer = opentelemetry.trace.get_tracer("interlock", tracer_provider=tracer_provider)
    observer.trace_with(Tracer(tracer))


def uninstrument() -> None:
    """Trace nothing any more."""
    observer.trace_with(None)


def link(entry: Entry) -> Link | None:
    """Return the link to the span that wrote an entry, for a span of your own; None where it was
    not traced."""
    return next(iter(_links((entry.trace or "",))), None)


def _links(traces: Iterable[str]) -> list[Link]:
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    found = filter(None, map(_TRACE.fullmatch, dict.fromkeys(traces)))
    return [
        Link(SpanContext(int(each[1], 16), int(each[2], 16), True, TraceFlags(int(each[3], 16))))
        for each in found
    ]


class Tracer:
    """Makes the spans."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def begin(self, space: str, agent: str, doing: Doing | None) -> Traced:
        """Begin to follow a protocol."""
        return Traced(self, space, agent, doing)

    def handling(self, traces: tuple[str, ...]) -> None:
        """What the caller does next follows from what was committed in these contexts."""
        _handled.set(traces[-_MOST_LINKS:])

    def start(
        self, name: str, context: Context | None, traces: Iterable[str], attributes: dict[str, Any]
    ) -> Span:
        """Begin a span below that of `context` (None: the current one)."""
        span: Span = self._tracer.start_span(
            name, context=context, links=_links(traces), attributes=attributes
        )
        return span


class Traced:
    """One protocol as it is traced."""

    def __init__(self, tracer: Tracer, space: str, agent: str, doing: Doing | None) -> None:
        self._tracer = tracer
        self._attributes = {"interlock.space": space, "interlock.agent": agent}
        self._span: Span | None = None
        self._context: Context | None = None
        self._commit: Span | None = None
        self._token: Token[Context] | None = None
        self._read: list[str] = []  # the traces of entries that the protocol has read
        self._thoughts = 0
        self._joined: float | None = None
        self._began = 0.0
        if doing is not None:
            from opentelemetry.trace import set_span_in_context

            attributes = {**self._attributes, "interlock.key": doing[1]}
            name = f"interlock.{doing[0]}"
            self._span = tracer.start(name, None, _handled.get(), attributes)
            self._context = set_span_in_context(self._span)

    def asks(self, request: Request[Any]) -> Request[Any]:
        """Begin a request; return it as it is to be sent."""
        self._began = perf_counter()
        if isinstance(request, Commit):
            return self._committing(request)
        if isinstance(request, Think) and self._context is not None:
            from opentelemetry.context import attach

            self._token = attach(self._context)
        elif isinstance(request, TakeTurn) and not request.ticket and self._joined is None:
            self._joined = self._began
        return request

    def answered(self, request: Request[Any], answer: object) -> None:
        """A request was answered."""
        if isinstance(request, Commit):
            self._committed(answer)
        elif isinstance(request, Think):
            self._thought({})
        elif isinstance(answer, Place) and answer.ticket and not answer.ahead:
            if self._joined is not None:
                self._event("turn", {"interlock.seconds": perf_counter() - self._joined})
                self._joined = None
        elif isinstance(answer, LogPage):
            self._reads(answer.entries)
        elif isinstance(answer, Deliveries):
            self._reads(each.entry for each in answer.items)

    def failed(self, request: Request[Any], problem: BaseException) -> None:
        """A request ended with an exception."""
        kind = type(problem).__name__
        if self._commit is not None:
            self._fail(self._commit, kind)
            self._commit.end()
            self._commit = None
        elif isinstance(request, Think):
            self._thought({"exception.type": kind})

    def ended(self, answer: object) -> None:
        """The protocol has ended, with an answer or an exception."""
        if self._span is None:
            return
        if isinstance(answer, Refusal | BaseException):
            self._fail(self._span, type(answer).__name__)
        if self._thoughts:
            self._span.set_attribute("interlock.attempts", self._thoughts)
        self._span.end()

    def _committing(self, request: Commit) -> Commit:
        plan = request.plan
        keys = list(dict.fromkeys(write.key for write in plan.writes))
        attributes = {**self._attributes, "interlock.agent": plan.agent, "interlock.keys": keys}
        traces = self._read if self._span is not None else [*_handled.get(), *self._read]
        span = self._tracer.start(
            "interlock.commit", self._context, traces[-_MOST_LINKS:], attributes
        )
        self._commit, context = span, span.get_span_context()
        if not context.is_valid:
            return request
        trace = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return Commit(plan._replace(trace=trace))

    def _committed(self, answer: object) -> None:
        span, self._commit = self._commit, None
        assert span is not None  # it was begun with the request
        if isinstance(answer, Committed):
            span.set_attribute("interlock.position", answer.writes[-1].position)
        elif isinstance(answer, Refusal):
            seen = note(answer, "", "", 0)
            found = {"interlock.refusal": type(answer).__name__}
            if seen is not None and seen.other is not None:
                found["interlock.other"] = seen.other
            span.set_attributes(found)
            self._event("refused", found)
        span.end()

    def _thought(self, more: dict[str, Any]) -> None:
        if self._token is not None:
            from opentelemetry.context import detach

            detach(self._token)
            self._token = None
        self._thoughts += 1
        attempt = {"interlock.attempt": self._thoughts}
        self._event("thought", attempt | {"interlock.seconds": perf_counter() - self._began} | more)

    def _reads(self, entries: Iterable[Entry]) -> None:
        self._read += [entry.trace for entry in entries if entry.trace is not None]
        del self._read[:-_MOST_LINKS]

    def _event(self, name: str, attributes: dict[str, Any]) -> None:
        if self._span is not None:
            self._span.add_event(name, attributes)

    @staticmethod
    def _fail(span: Span, kind: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        span.set_status(Status(StatusCode.ERROR, kind))
