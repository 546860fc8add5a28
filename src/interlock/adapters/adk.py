"""Google ADK: sessions that many runs, processes and hosts may share.

A session has a head, which counts its events and which every change writes, so one that was read
before another change is stale.  What is shared by sessions, the `app:` and `user:` state, has a key
for each of its names.  Below `adk/<app>/` are

    heads/<user>/<session>         the head, and states/<user>/<session> its own state
    events/<user>/<session>/<n>    an event
    answers/<user>/<session>/<id>  that a request was answered
    turns/<user>/<session>         whose lease a run has
    app/<name>, users/<user>/<name>

`Session._storage_update_marker`, which ADK keeps for services, holds the versions that were read.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import wraps
from typing import Any, NamedTuple, Self

from interlock import (
    AsyncLease,
    AsyncSpace,
    Committed,
    Conflict,
    Fenced,
    Json,
    Lease,
    Record,
    Refused,
    Space,
)
from interlock.adapters.home import AsyncClosing
from interlock.adapters.space import Write, commit, delete_all, give_up, quoted, run_async, take
from interlock.extras import needs

with needs("Google ADK", "adk"):
    from google.adk import runners
    from google.adk.errors import StaleSessionError
    from google.adk.errors.already_exists_error import AlreadyExistsError
    from google.adk.errors.session_not_found_error import SessionNotFoundError
    from google.adk.events import Event, EventActions
    from google.adk.platform import time
    from google.adk.sessions import BaseSessionService, Session, State
    from google.adk.sessions.base_session_service import GetSessionConfig, ListSessionsResponse

__all__ = ["FencedSession", "SessionService", "StaleSession"]

_LONGEST = 90  # characters of a name in a key: a key has up to four names, and 512 bytes


class StaleSession(Conflict, StaleSessionError):
    """The session, or a name of its `app:` or `user:` state, has moved since it was read."""


class FencedSession(Fenced, StaleSessionError):
    """The session was taken away from this run.  Nothing was stored; it must stop."""


class _Keys(NamedTuple):
    """Where a session is: names as they stand in keys."""

    app: str
    user: str
    session: str = ""

    @classmethod
    def of(cls, *names: str) -> Self:
        return cls(*(quoted(name, _LONGEST) for name in names))

    def at(self, kind: str, *more: str) -> str:
        return "/".join(["adk", self.app, kind, self.user, self.session, *more])

    def below(self, kind: str) -> str:
        return f"adk/{self.app}/{kind}/{self.user}/"

    @property
    def scopes(self) -> tuple[str, str]:
        """Where the names are that sessions share: of the app, and of the user."""
        return f"adk/{self.app}/app/", self.below("users")

    def shared(self, name: str) -> str:
        """The key of a name with its prefix `app:` or `user:`."""
        scope, _, rest = name.partition(":")
        last = quoted(rest, _LONGEST)
        return f"{self.below('users')}{last}" if scope == "user" else f"adk/{self.app}/app/{last}"


class _Seen(NamedTuple):
    """The versions that a session object was read at: of its head, and of the shared names."""

    head: int
    shared: Mapping[str, int]

    @classmethod
    def by(cls, session: Session, head: Record) -> Self:
        marker = session._storage_update_marker
        if marker is not None:
            return cls(*json.loads(marker))
        # It was made by hand, or comes from JSON: its last event says how old it is.
        last = session.events[-1].id if session.events else None
        return cls(head.version if last == head.value["last"] else 0, {})

    def mark(self, session: Session) -> None:
        session._storage_update_marker = json.dumps([self.head, self.shared], sort_keys=True)


class SessionService(AsyncClosing, BaseSessionService):
    """The sessions of ADK in a space, or at a URL: `SessionService("sqlite:///team.db")`.

    `append_event` to a session that others have changed since it was read raises StaleSession, and
    nothing is stored.  So does one that sets a name of the `app:` or `user:` state that has moved;
    other names of it are merged.  The same event, appended twice, is stored once, and the same
    answer to a call, given twice, is refused.

    A run of `Runner` has its session to itself, by a lease of `ttl` seconds, renewed until the run
    ends: further runs wait for up to `wait` seconds (None: without limit), then raise Held.

    With a URL, `space` and `agent` are those of `interlock.open`.  `Runner.run`, which makes an
    event loop for each call, needs a URL or a space from `interlock.open`.
    """

    def __init__(
        self,
        where: str | Space | AsyncSpace,
        *,
        space: str = "default",
        agent: str | None = None,
        wait: float | None = None,
        ttl: float = 30.0,
    ) -> None:
        self._open(where, space, agent)
        self._wait, self._ttl = wait, ttl
        self._turns: dict[str, Lease | AsyncLease] = {}
        _let_runs_take_turns()

    async def create_session(
        self,
        *,
        app_name: str,
        user_id: str,
        state: dict[str, Any] | None = None,
        session_id: str | None = None,
    ) -> Session:
        """Create a session.  `app:` and `user:` names of `state` are set, whatever they were.

        Raises AlreadyExistsError, Invalid.
        """
        name = (session_id or "").strip() or str(uuid.uuid4())
        work = self._create(app_name, user_id, name, state or {})
        return await run_async(self._space, work)

    async def get_session(
        self,
        *,
        app_name: str,
        user_id: str,
        session_id: str,
        config: GetSessionConfig | None = None,
    ) -> Session | None:
        """Return a session, with the events that `config` asks for; None if there is none."""
        keys = _Keys.of(app_name, user_id, session_id.strip())
        return await run_async(self._space, self._get(keys, config or GetSessionConfig()))

    async def list_sessions(
        self, *, app_name: str, user_id: str | None = None
    ) -> ListSessionsResponse:
        """Return the sessions of a user (None: of all), without events, the latest last."""
        sessions = await run_async(self._space, self._list(app_name, user_id))
        sessions.sort(key=lambda each: (each.last_update_time, each.user_id, each.id))
        return ListSessionsResponse(sessions=sessions)

    async def delete_session(self, *, app_name: str, user_id: str, session_id: str) -> None:
        """Delete a session and its events; `app:` and `user:` state stays."""
        keys = _Keys.of(app_name, user_id, session_id.strip())
        below = [f"{keys.at(kind)}/" for kind in ("events", "answers")]
        gone = delete_all(self._calls, keys.at("heads"), keys.at("states"), below=below)
        await run_async(self._space, gone)

    async def get_user_state(self, *, app_name: str, user_id: str) -> dict[str, Any]:
        """Return the `user:` state, by names without that prefix."""
        work = self._shared(_Keys.of(app_name, user_id).below("users"))
        found = await run_async(self._space, work)
        return {name.removeprefix("user:"): each.value[1] for name, each in found.items()}

    async def append_event(self, session: Session, event: Event) -> Event:
        """Append an event and its state to a session and to the stored one, in one commit.

        Raises StaleSession, FencedSession, SessionNotFoundError, AlreadyExistsError if another
        event has this id, Invalid if it is too large.
        """
        if event.partial:
            return event
        self._apply_temp_state(session, event)
        event = self._trim_temp_delta_state(event)
        with _translated(session.id):
            await run_async(self._space, self._append(session, event))
        if any(each.id == event.id for each in session.events):
            return event
        session.last_update_time = event.timestamp
        return await super().append_event(session, event)

    @asynccontextmanager
    async def turn(self, *, app_name: str, user_id: str, session_id: str) -> AsyncIterator[None]:
        """Have a session to oneself, as a run has: `async with service.turn(...):`.

        Raises Held, and Invalid inside a turn of the same session.
        """
        key = _Keys.of(app_name, user_id, session_id.strip()).at("turns")
        lease = await take(self._space, key, self._ttl, self._wait)
        self._turns[key] = lease
        try:
            yield
        finally:
            if self._turns.get(key) is lease:
                del self._turns[key]
            await give_up(lease)

    async def _create(self, app: str, user: str, name: str, state: dict[str, Any]) -> Session:
        keys, now = _Keys.of(app, user, name), time.get_time()
        own, shared = _scopes(state)
        names = {each: keys.shared(each) for each in shared}
        head = {"app": app, "user": user, "id": name, "events": 0, "last": None, "time": now}
        head["born"] = uuid.uuid4().hex  # an earlier one of this name, deleted, had another
        while True:
            found = await self._calls.read_many(
                [keys.at("heads"), keys.at("states"), *names.values()]
            )
            if found[keys.at("heads")].exists:
                raise AlreadyExistsError(f"Session {name!r} exists.")
            writes: list[Write] = [("create", keys.at("heads"), head)]
            if own:
                writes.append(("create", keys.at("states"), own))
            writes += [("write", found[names[each]], [each, shared[each]]) for each in shared]
            try:
                await commit(self._calls, writes)
            except Conflict:
                continue  # somebody else set one of the names, or made the session
            made = await self._get(keys, GetSessionConfig())
            if made is not None:
                return made

    async def _get(self, keys: _Keys, config: GetSessionConfig) -> Session | None:
        heads = [keys.at("heads"), keys.at("states")]
        head, found = await self._calls.read(heads[0]), dict[str, Record]()
        while not found or found[heads[0]].version != head.version:
            head = found.get(heads[0], head)
            if not head.exists:
                return None
            count, recent = head.value["events"], config.num_recent_events
            first = 0 if recent is None else max(count - recent, 0)
            names = [keys.at("events", f"{n:08d}") for n in range(first, count)]
            found = await self._calls.read_many([*heads, *names])
        events = [Event.model_validate(found[name].value) for name in names]
        shared = await self._shared(*keys.scopes)
        return _session(head, found[heads[1]], shared, _since(events, config))

    async def _list(self, app: str, user: str | None) -> list[Session]:
        keys = _Keys.of(app, user or "")
        kinds = ("heads", "states")
        below = [f"adk/{keys.app}/{kind}/" if user is None else keys.below(kind) for kind in kinds]
        heads, states = [await self._calls.scan(prefix) for prefix in below]
        sessions, shared = list[Session](), dict[str, dict[str, Record]]()
        for head in heads.values():
            of = _Keys.of(app, head.value["user"], head.value["id"])
            if of.user not in shared:
                shared[of.user] = await self._shared(*of.scopes)
            state = states.get(of.at("states"))
            sessions.append(_session(head, state, shared[of.user], []))
        return sessions

    async def _shared(self, *prefixes: str) -> dict[str, Record]:
        """Return the records of shared names, as they are now."""
        found = [await self._calls.scan(prefix) for prefix in prefixes]
        return {each.value[0]: each for records in found for each in records.values()}

    async def _append(self, session: Session, event: Event) -> None:
        keys = _Keys.of(session.app_name, session.user_id, session.id)
        stored = event.model_dump(mode="json", exclude_none=True)
        own, shared = _scopes(event.actions.state_delta)
        names = {name: keys.shared(name) for name in shared}
        heads = [keys.at("heads"), keys.at("states")]
        found = await self._calls.read_many([*heads, *names.values()])
        head, state = found[heads[0]], found[heads[1]]
        if not head.exists:
            raise SessionNotFoundError(f"Session {session.id!r} does not exist.")
        seen = _Seen.by(session, head)
        at = keys.at("events", f"{head.value['events']:08d}")
        counted = {"events": head.value["events"] + 1, "last": event.id, "time": event.timestamp}
        writes: list[Write] = [
            ("write", head._replace(version=seen.head), {**head.value, **counted}),
            ("create", at, stored),
            *(("create", keys.at("answers", answer), event.id) for answer in _answers(event)),
        ]
        if own:
            writes.append(("write", state, {**(state.value or {}), **own}))
        for name, key in names.items():
            base = found[key]._replace(version=seen.shared.get(name, 0))
            writes.append(("write", base, [name, shared[name]]))
        lease = self._turns.get(keys.at("turns"))
        if lease is not None:
            writes.append(("expect", lease.record))
        op_id = f"adk-{_digest([*keys, head.value['born'], event.id])}"
        try:
            done = await commit(self._calls, writes, op_id)
        except Refused:
            done = await self._calls.outcome(op_id)
            if done is None:
                raise
            await self._check_same(keys, done, stored)
        assert done is not None  # a block that did not raise was committed
        if not any(each.id == event.id for each in session.events):
            written = {write.key: write.version for write in done.writes}
            ours = {name: written[key] for name, key in names.items() if key in written}
            _Seen(written[heads[0]], {**seen.shared, **ours}).mark(session)

    async def _check_same(self, keys: _Keys, done: Committed, stored: Json) -> None:
        """Raise AlreadyExistsError if the event that was committed under this id is another."""
        key = next(write.key for write in done.writes if write.key.startswith(keys.at("events")))
        if (await self._calls.read(key)).value != stored:
            raise AlreadyExistsError(f"Another event of the session has the id {stored['id']!r}.")


def _session(
    head: Record, state: Record | None, shared: Mapping[str, Record], events: list[Event]
) -> Session:
    """Return the session of a head, with its own and the shared state."""
    own = state.value if state is not None and state.exists else {}
    session = Session(
        app_name=head.value["app"],
        user_id=head.value["user"],
        id=head.value["id"],
        state={**own, **{name: record.value[1] for name, record in shared.items()}},
        events=events,
        last_update_time=head.value["time"],
    )
    versions = {name: record.version for name, record in shared.items()}
    _Seen(head.version, versions).mark(session)
    return session


def _scopes(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of a state is a session's own, and what it shares; `temp:` is neither.

    Both as ADK stores them: what is no JSON becomes text, and ADK logs a warning.
    """
    stored = EventActions(state_delta=state).model_dump(mode="json")["state_delta"]
    prefixes = (State.APP_PREFIX, State.USER_PREFIX)
    shared = {name: value for name, value in stored.items() if name.startswith(prefixes)}
    others = (*prefixes, State.TEMP_PREFIX)
    return {name: stored[name] for name in stored if not name.startswith(others)}, shared


def _since(events: list[Event], config: GetSessionConfig) -> list[Event]:
    """Return the last events, none of them older than `after_timestamp`."""
    if config.after_timestamp is None:
        return events
    old = [n for n, event in enumerate(events) if event.timestamp < config.after_timestamp]
    return events[old[-1] + 1 :] if old else events


def _answers(event: Event) -> Iterator[str]:
    """Yield a name for each answer of a user: what it answers, and what it says.

    A call that runs for long may have several answers, which differ: how far it is.
    """
    for given in event.get_function_responses() if event.author == "user" else ():
        yield _digest([given.id, given.response])


def _digest(values: list[Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@contextmanager
def _translated(session: str) -> Iterator[None]:
    """Raise a refusal as the one that users of ADK catch, too."""
    try:
        yield
    except Conflict as conflict:
        what = f"Session {session!r} was modified in storage since it was read"
        if "/answers/" in conflict.key:
            what = f"The answer was delivered to session {session!r} before"
        elif "/heads/" not in conflict.key:
            what = f"{conflict.record.value[0]!r} was modified in storage since it was read"
        raise StaleSession(conflict.outcome.replace(message=what)) from conflict
    except Fenced as fenced:
        raise FencedSession(fenced.outcome) from fenced


def _let_runs_take_turns() -> None:
    """Let each run of a `Runner` that has our sessions take its turn.

    ADK asks a service for the session when a run begins, and never says that one has ended.
    """
    run = runners.Runner.run_async
    if hasattr(run, "takes_turns"):
        return

    @wraps(run)
    async def run_async(
        self: runners.Runner, *, user_id: str, session_id: str, **arguments: Any
    ) -> AsyncIterator[Event]:
        service = self.session_service
        which: dict[str, Any] = {"user_id": user_id, "session_id": session_id}
        turn: AbstractAsyncContextManager[None] = nullcontext()
        if isinstance(service, SessionService):
            turn = service.turn(app_name=self.app_name, **which)
        async with turn, aclosing(run(self, **which, **arguments)) as events:
            async for event in events:
                yield event

    vars(run_async)["takes_turns"] = True
    setattr(runners.Runner, "run_async", run_async)  # noqa: B010  # a method of theirs
