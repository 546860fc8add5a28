"""Microsoft Agent Framework: sessions, history and checkpoints that several hosts may share.

Below `agent-framework/` are

    sessions/<id>                   a session, whose lease a turn has
    history/<provider>/<id>/<n>     a message
    checkpoints/<id>                a checkpoint, and workflows/<name>/<id> when it was made
    next/<id>                       the checkpoint that follows
    resumes/<id>                    whose lease has whoever resumes it
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

from interlock import (
    AsyncLease,
    AsyncSpace,
    Conflict,
    Fenced,
    Held,
    InterlockError,
    Json,
    Lease,
    Record,
    Space,
)
from interlock.adapters.home import AsyncClosing
from interlock.adapters.observed import Observed, observed
from interlock.adapters.space import (
    Write,
    commit,
    delete_all,
    give_up,
    quoted,
    run_async,
    take,
    write,
)
from interlock.extras import needs

with needs("Microsoft Agent Framework", "agent-framework"):
    import agent_framework
    from agent_framework import (
        AgentSession,
        FunctionalWorkflow,
        Message,
        ResponseStream,
        Workflow,
        WorkflowCheckpoint,
        WorkflowCheckpointException,
    )
    from agent_framework._workflows._checkpoint_encoding import (
        decode_checkpoint_value,
        encode_checkpoint_value,
    )
    from agent_framework.exceptions import AgentException

__all__ = [
    "CheckpointHeld",
    "CheckpointResumed",
    "CheckpointStorage",
    "HistoryProvider",
    "RunReplaced",
    "SessionConflict",
    "SessionStore",
]

_ROOT = "agent-framework"


class SessionConflict(Conflict, AgentException):
    """The session has moved since it was read, or was not read.  Nothing was stored."""


class CheckpointResumed(Conflict, WorkflowCheckpointException):
    """The checkpoint was resumed before: another one follows it.  The workflow did not run."""

    retryable = False
    next_step = "Resume that one, or reopen() this one."

    def __str__(self) -> str:
        return f"{self.outcome.message}. {self.next_step}"


class CheckpointHeld(Held, WorkflowCheckpointException):
    """Somebody else is resuming the checkpoint.  The workflow did not run."""


class RunReplaced(asyncio.CancelledError):
    """Another run has gone on from the last checkpoint of this one, which must stop.

    A cancellation: what else `save` raises, the framework logs, and the workflow goes on.
    """


with warnings.catch_warnings():  # to inherit is to use, says the framework of what is experimental
    warnings.simplefilter("ignore", FutureWarning)

    class _SessionStore(AsyncClosing, agent_framework.SessionStore):
        """What a session store of the framework is."""


class SessionStore(_SessionStore):
    """The session store of Agent Framework in a space, or at a URL.

    `set` writes over what its caller has read: the session that `get` returned, or a copy of it.
    If others came first it raises SessionConflict.  `turn` leaves no room for that.

    With a URL, `space` and `agent` are those of `interlock.open`.
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

    async def get(self, session_id: str) -> AgentSession | None:
        """Return the stored session, None if there is none."""
        record = await run_async(self._space, self._calls.read(self._key(session_id)))
        return _session(record) if record.exists else None

    async def set(self, session_id: str, session: AgentSession) -> None:
        """Store a session, if it is new or was read here and has not moved since.

        Raises SessionConflict, Held in somebody else's turn, Invalid.
        """
        try:
            record = await run_async(self._space, self._set(self._key(session_id), session))
        except Conflict as refused:
            what = f"Session {session_id!r} has moved since it was read, or was not read"
            raise SessionConflict(refused.outcome.replace(message=what)) from refused
        vars(session)["observed"] = Observed.of(record)  # it may be changed and set again

    async def delete(self, session_id: str) -> None:
        """Delete the stored session, if there is one.  Raises Held in somebody else's turn."""
        await run_async(self._space, delete_all(self._calls, self._key(session_id)))

    @asynccontextmanager
    async def turn(self, session_id: str) -> AsyncIterator[AgentSession]:
        """Have a session to oneself: `async with store.turn("s") as session: await agent.run(...)`.

        Waits for `wait` seconds (None: without limit) for its lease of `ttl` seconds, renewed;
        gives the stored session, or a new one; and stores it at the end, unless the block raises.
        Raises Held, Fenced at the end if it was taken away, Invalid.
        """
        lease = await take(self._space, self._key(session_id), self._ttl, self._wait)
        try:
            record = lease.record
            session = _session(record) if record.exists else AgentSession(session_id=session_id)
            yield session
            await write(lease, session.to_dict())
        finally:
            await give_up(lease)

    def _key(self, session_id: str) -> str:
        self.validate_session_id(session_id)
        return _key("sessions", session_id)

    async def _set(self, key: str, session: AgentSession) -> Record:
        fresh = await self._calls.read(key)
        basis = observed(session, fresh)
        if basis is None:
            return await self._calls.create(key, session.to_dict())
        return await self._calls.write(basis.record(fresh), session.to_dict())


def _session(record: Record) -> AgentSession:
    session = AgentSession.from_dict(record.value)
    vars(session)["observed"] = Observed.of(record)
    return session


class HistoryProvider(AsyncClosing, agent_framework.HistoryProvider):
    """The history of conversations in a space, or at a URL, in the order in which runs ended.

    Whatever runs at once on a session, all messages are kept, those of a run together.  `options`
    are those of the framework's class.
    """

    def __init__(
        self,
        where: str | Space | AsyncSpace,
        source_id: str = "interlock",
        *,
        space: str = "default",
        agent: str | None = None,
        **options: Any,
    ) -> None:
        self._open(where, space, agent)
        agent_framework.HistoryProvider.__init__(self, source_id, **options)

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """Return the messages of a session."""
        work = self._calls.scan(self._prefix(session_id))
        found = await run_async(self._space, work)
        return [Message.from_dict(each.value) for each in found.values()]

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add messages, all or none.

        Of a whole transcript only what is new is added, and no message with an ID is added twice.
        Raises Invalid, Contended.
        """
        prefix, given = self._prefix(session_id), [message.to_dict() for message in messages]

        async def add(tx: Any) -> None:
            there = [each.value for each in (await tx.scan(prefix)).values()]
            whole = len(given) > len(there) and given[: len(there)] == there
            new = given[len(there) :] if whole else given
            new = [each for each in new if not each.get("message_id") or each not in there]
            for n, message in enumerate(new, len(there)):
                await tx.write(await tx.read(f"{prefix}{n:08d}"), message)

        await run_async(self._space, self._calls.transact(add))

    def _prefix(self, session_id: str | None) -> str:
        return f"{_key('history', self.source_id)}/{quoted(session_id or '', 200)}/"


class CheckpointStorage(AsyncClosing):
    """The checkpoints of workflows in a space, or at a URL.

    A run resumes a checkpoint once.  It raises CheckpointHeld while somebody else resumes it, and
    CheckpointResumed once another checkpoint follows it, however often a request is delivered.
    If a run fails or dies before its next checkpoint, the last one may be resumed again: at once,
    or after `ttl` seconds.  A run whose last checkpoint others have resumed ends with RunReplaced.

    `allowed_checkpoint_types` is that of FileCheckpointStorage.  With a URL, `space` and `agent`
    are those of `interlock.open`.
    """

    def __init__(
        self,
        where: str | Space | AsyncSpace,
        *,
        allowed_checkpoint_types: Sequence[str] = (),
        space: str = "default",
        agent: str | None = None,
        ttl: float = 30.0,
    ) -> None:
        self._open(where, space, agent)
        self._allowed, self._ttl = frozenset(allowed_checkpoint_types), ttl
        _let_runs_resume_once()

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint, as the one that follows `previous_checkpoint_id`; return its id.

        Raises RunReplaced, Conflict if another checkpoint has its id, Invalid, and
        WorkflowCheckpointException if it could not be loaded again.
        """
        encoded = encode_checkpoint_value(checkpoint.to_dict())
        self._decoded(encoded)
        previous, run = checkpoint.previous_checkpoint_id, _run.get()
        if run is not None and run.checkpoint_id != previous:
            run = None
        lease = None if run is None else run.lease
        try:
            await run_async(self._space, self._save(checkpoint, encoded, lease))
        except (Conflict, Fenced, Held) as refused:
            key = _key("checkpoints", checkpoint.checkpoint_id)
            stored = await run_async(self._space, self._calls.read(key))
            if not stored.exists:
                what = f"Another run has gone on from checkpoint {previous!r}."
                raise RunReplaced(what) from refused
            if stored.value != encoded:
                raise  # else it is delivered again
        if run is not None:
            await run.end()
        return checkpoint.checkpoint_id

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """Return a checkpoint.  In a run that begins with it, this is to resume it.

        Raises CheckpointHeld, CheckpointResumed, and WorkflowCheckpointException if there is none.
        """
        run = _run.get()
        if run is None or run.checkpoint_id != checkpoint_id or run.lease is not None:
            return self._decoded(await run_async(self._space, self._load(checkpoint_id)))
        with _refusals(checkpoint_id):
            await run.begin(self._space, _key("resumes", checkpoint_id), self._ttl)
            try:
                work = self._load(checkpoint_id, resume=True)
                return self._decoded(await run_async(self._space, work))
            except BaseException:
                await run.end()
                raise

    async def reopen(self, checkpoint_id: str) -> None:
        """Let a checkpoint be resumed once more, in a branch of its own: time travel."""
        await run_async(self._space, delete_all(self._calls, _key("next", checkpoint_id)))

    async def get_latest(self, *, workflow_name: str) -> WorkflowCheckpoint | None:
        """Return the latest checkpoint of a workflow, None if there is none."""
        found = await run_async(self._space, self._scan(workflow_name))
        found.sort(key=lambda each: datetime.fromisoformat(each.value[1]))
        latest = await self._read(found[-1:])
        return latest[0] if latest else None

    async def list_checkpoints(self, *, workflow_name: str) -> list[WorkflowCheckpoint]:
        """Return the checkpoints of a workflow, in the order in which they were saved."""
        return await self._read(await run_async(self._space, self._scan(workflow_name)))

    async def list_checkpoint_ids(self, *, workflow_name: str) -> list[str]:
        """Return the ids of the checkpoints of a workflow, in that order."""
        found = await run_async(self._space, self._scan(workflow_name))
        return [each.value[0] for each in found]

    async def delete(self, checkpoint_id: str) -> bool:
        """Delete a checkpoint; return whether there was one."""
        key = _key("checkpoints", checkpoint_id)
        found = await run_async(self._space, self._calls.read(key))
        if not found.exists:
            return False
        index = _key("workflows", found.value["workflow_name"], checkpoint_id)
        for each in (key, index, _key("next", checkpoint_id)):
            await run_async(self._space, delete_all(self._calls, each))
        return True

    def _decoded(self, encoded: Json) -> WorkflowCheckpoint:
        decoded = decode_checkpoint_value(encoded, allowed_types=self._allowed)
        return WorkflowCheckpoint.from_dict(decoded)

    async def _load(self, checkpoint_id: str, resume: bool = False) -> Json:
        key, follows = _key("checkpoints", checkpoint_id), _key("next", checkpoint_id)
        found = await self._calls.read_many([key, follows])
        if not found[key].exists:
            raise WorkflowCheckpointException(f"No checkpoint has the ID {checkpoint_id!r}.")
        if resume and found[follows].exists:  # to write over it, unread, is the Conflict
            await self._calls.write(found[follows]._replace(version=0), checkpoint_id)
        return found[key].value

    async def _save(
        self, checkpoint: WorkflowCheckpoint, encoded: Json, lease: Lease | AsyncLease | None
    ) -> None:
        id, previous = checkpoint.checkpoint_id, checkpoint.previous_checkpoint_id
        index = _key("workflows", checkpoint.workflow_name, id)
        writes: list[Write] = [
            ("create", _key("checkpoints", id), encoded),
            ("create", index, [id, checkpoint.timestamp]),
        ]
        if previous is not None:
            writes.append(("create", _key("next", previous), id))
        if lease is not None:
            writes.append(("expect", lease.record))
        elif previous is not None:  # refused as long as somebody has the lease
            resumes = await self._calls.read(_key("resumes", previous))
            writes.append(("write", resumes, None))
        await commit(self._calls, writes)

    async def _scan(self, workflow: str) -> list[Record]:
        found = await self._calls.scan(_key("workflows", workflow, ""))
        return sorted(found.values(), key=lambda each: each.position)

    async def _read(self, index: Sequence[Record]) -> list[WorkflowCheckpoint]:
        keys = [_key("checkpoints", each.value[0]) for each in index]
        found = await run_async(self._space, self._calls.read_many(keys))
        return [self._decoded(found[key].value) for key in keys if found[key].exists]


def _key(kind: str, *names: str) -> str:
    """Return a key, or with "" as its last name a prefix."""
    return "/".join([_ROOT, kind, *(quoted(name, 200) if name else "" for name in names)])


@contextmanager
def _refusals(checkpoint_id: str) -> Iterator[None]:
    """Raise why a checkpoint is not resumed as what users of the framework catch, too."""
    try:
        yield
    except Conflict as refused:
        what = f"Checkpoint {checkpoint_id!r} was resumed before: {refused.record.value!r} follows"
        raise CheckpointResumed(refused.outcome.replace(message=what)) from refused
    except Held as refused:
        what = f"Agent {refused.holder!r} is resuming checkpoint {checkpoint_id!r}"
        raise CheckpointHeld(refused.outcome.replace(message=what)) from refused


class _Run:
    """A run that begins with a checkpoint, whose lease it has until it has saved the next one."""

    def __init__(self, checkpoint_id: str) -> None:
        self.checkpoint_id = checkpoint_id
        self.lease: Lease | AsyncLease | None = None
        self._ending: asyncio.Task[None] | None = None

    async def begin(self, space: Space | AsyncSpace, key: str, ttl: float) -> None:
        """Take the lease.  If nobody says the end of the run, it ends with its task."""
        self.lease = await take(space, key, ttl, 0)
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._task_done)

    async def end(self) -> None:
        """Give up the lease, if that has not been done."""
        lease, self.lease = self.lease, None
        if lease is not None:
            with suppress(InterlockError):  # a store that is away: the lease ends with its time
                await give_up(lease)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let what is called be part of the run."""
        before = _run.get()
        _run.set(self)
        try:
            yield
        finally:
            _run.set(before)

    async def whole(self, running: Awaitable[T]) -> T:
        """Await a run to its end."""
        with self.here():
            try:
                return await running
            finally:
                await self.end()

    def _task_done(self, _: object) -> None:
        if self.lease is not None:
            self._ending = asyncio.get_running_loop().create_task(self.end())


T = TypeVar("T")
_run: ContextVar[_Run | None] = ContextVar("interlock_agent_framework_run", default=None)


def _let_runs_resume_once() -> None:
    """Let the runs of workflows say which checkpoint they resume, and when they have ended.

    The framework asks a storage for a checkpoint and says neither.  Twice does nothing.
    """
    for kind, name in (
        (Workflow, "run"),
        (Workflow, "cancel_pending_requests"),
        (FunctionalWorkflow, "run"),
    ):
        run = getattr(kind, name, None)
        if run is not None and not hasattr(run, "resumes_once"):
            setattr(kind, name, _resuming_once(run))


def _resuming_once(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def run_once(*args: Any, checkpoint_id: str | None = None, **named: Any) -> Any:
        running = run(*args, checkpoint_id=checkpoint_id, **named)
        if checkpoint_id is None:
            return running
        mine = _Run(checkpoint_id)
        if isinstance(running, ResponseStream):
            return running.with_pull_context_manager(mine.here).with_cleanup_hook(mine.end)
        return mine.whole(running)

    vars(run_once)["resumes_once"] = True
    return run_once
