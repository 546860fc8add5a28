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
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial, wraps
from typing import Any, NamedTuple

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
from interlock.adapters.observed import Observed, observed
from interlock.adapters.space import (
    OpensSpace,
    Write,
    commit,
    give_up,
    quoted,
    run_async,
    take,
    write,
)
from interlock.cancellation import finish
from interlock.extras import needs

with needs("Microsoft Agent Framework", "agent-framework"):
    import agent_framework
    from agent_framework import (
        AgentSession,
        Message,
        ResponseStream,
        Workflow,
        WorkflowCheckpoint,
        WorkflowCheckpointException,
    )
    from agent_framework._sessions import filter_new_messages
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

    class _SessionStore(OpensSpace, agent_framework.SessionStore):
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
        super().__init__(where, space, agent)
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
        await run_async(self._space, _delete(self._calls, self._key(session_id)))

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
            await finish(give_up(lease))

    def _key(self, session_id: str) -> str:
        self.validate_session_id(session_id)
        return f"{_ROOT}/sessions/{quoted(session_id)}"

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


class HistoryProvider(OpensSpace, agent_framework.HistoryProvider):
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
        OpensSpace.__init__(self, where, space, agent)
        agent_framework.HistoryProvider.__init__(self, source_id, **options)

    async def get_messages(
        self, session_id: str | None, *, state: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Message]:
        """Return the messages of a session."""
        work = self._calls.scan(self._prefix(session_id))
        return [_message(each) for each in (await run_async(self._space, work)).values()]

    async def save_messages(
        self,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        state: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add messages, all or none; what the history ends with already is not added again.

        Raises Invalid, Contended.
        """
        prefix = self._prefix(session_id)

        async def add(tx: Any) -> None:
            there = [_message(each) for each in (await tx.scan(prefix)).values()]
            for n, message in enumerate(filter_new_messages(there, messages), len(there)):
                await tx.write(await tx.read(f"{prefix}{n:08d}"), message.to_dict())

        await run_async(self._space, self._calls.transact(add))

    def _prefix(self, session_id: str | None) -> str:
        names = (self.source_id, session_id or "")
        return f"{_ROOT}/history/{'/'.join(quoted(name, 200) for name in names)}/"


def _message(record: Record) -> Message:
    return Message.from_dict(record.value)


class CheckpointStorage(OpensSpace):
    """The checkpoints of workflows in a space, or at a URL.

    A checkpoint is resumed once.  `load`, with which a run begins, raises CheckpointHeld while
    somebody else resumes it, and CheckpointResumed once another checkpoint follows it, however
    often a request is delivered.  If a run fails or dies before its next checkpoint, the last one
    may be resumed again: at once, or after `ttl` seconds.  A run whose last checkpoint somebody
    else has resumed ends with RunReplaced at its next one.  `get_latest` and `list_checkpoints`
    only look.

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
        super().__init__(where, space, agent)
        self._allowed, self._ttl = frozenset(allowed_checkpoint_types), ttl
        self._resuming: dict[str, _Resuming] = {}
        self._ending: set[asyncio.Task[None]] = set()
        _storages.add(self)
        _let_runs_end()

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint, as the one that follows `previous_checkpoint_id`; return its id.

        Raises RunReplaced, WorkflowCheckpointException if it cannot be stored, Invalid.
        """
        encoded = encode_checkpoint_value(checkpoint.to_dict())
        self._decoded(encoded)  # what cannot be loaded is not stored
        previous = checkpoint.previous_checkpoint_id
        resuming = self._resuming.get(previous or "")
        try:
            await run_async(self._space, self._save(checkpoint, encoded, resuming))
        except (Conflict, Fenced, Held) as refused:
            raise RunReplaced(f"Another run has gone on from checkpoint {previous!r}.") from refused
        if resuming is not None:
            await self._let_go(resuming)
        return checkpoint.checkpoint_id

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """Return a checkpoint, and begin to resume it.

        Raises CheckpointHeld, CheckpointResumed, and WorkflowCheckpointException if there is none.
        """
        task, resuming = asyncio.current_task(), self._resuming.get(checkpoint_id)
        with _refusals(checkpoint_id):
            if resuming is None or resuming.task is not task:  # else a try before this one failed
                lease = await take(self._space, _resumes(checkpoint_id), self._ttl, 0)
                resuming = self._resuming[checkpoint_id] = _Resuming(checkpoint_id, lease, task)
                if task is not None:
                    task.add_done_callback(partial(self._let_go_later, resuming))
            try:
                return self._decoded(await run_async(self._space, self._load(checkpoint_id)))
            except BaseException:
                await finish(self._let_go(resuming))
                raise

    async def reopen(self, checkpoint_id: str) -> None:
        """Let a checkpoint be resumed once more, in a branch of its own: time travel, on purpose.

        Raises Held while somebody resumes it.
        """
        await run_async(self._space, _delete(self._calls, _next(checkpoint_id)))

    async def get_latest(self, *, workflow_name: str) -> WorkflowCheckpoint | None:
        """Return the latest checkpoint of a workflow, None if there is none."""
        found = await self._scan(workflow_name)
        if not found:
            return None
        latest = max(found, key=lambda each: datetime.fromisoformat(each.value[1]))
        for checkpoint in await self._read([latest.value[0]]):
            return checkpoint
        return None  # it was deleted meanwhile

    async def list_checkpoints(self, *, workflow_name: str) -> list[WorkflowCheckpoint]:
        """Return the checkpoints of a workflow, in the order in which they were saved."""
        return await self._read(await self.list_checkpoint_ids(workflow_name=workflow_name))

    async def list_checkpoint_ids(self, *, workflow_name: str) -> list[str]:
        """Return the ids of the checkpoints of a workflow, in that order."""
        return [each.value[0] for each in await self._scan(workflow_name)]

    async def delete(self, checkpoint_id: str) -> bool:
        """Delete a checkpoint; return whether there was one."""
        found = await run_async(self._space, self._calls.read(_checkpoint(checkpoint_id)))
        if not found.exists:
            return False
        index = _index(found.value["workflow_name"], checkpoint_id)
        for key in (found.key, index, _next(checkpoint_id)):
            await run_async(self._space, _delete(self._calls, key))
        return True

    async def end(self, checkpoint_id: str) -> None:
        """Stop resuming a checkpoint in this task: the run has ended."""
        resuming = self._resuming.get(checkpoint_id)
        if resuming is not None and resuming.task is asyncio.current_task():
            await finish(self._let_go(resuming))

    def _decoded(self, encoded: Any) -> WorkflowCheckpoint:
        decoded = decode_checkpoint_value(encoded, allowed_types=self._allowed)
        return WorkflowCheckpoint.from_dict(decoded)

    async def _load(self, checkpoint_id: str) -> Json:
        key, follows = _checkpoint(checkpoint_id), _next(checkpoint_id)
        found = await self._calls.read_many([key, follows])
        if not found[key].exists:
            raise WorkflowCheckpointException(f"No checkpoint has the ID {checkpoint_id!r}.")
        if found[follows].exists:  # to write over it, unread, is the Conflict
            await self._calls.write(found[follows]._replace(version=0), checkpoint_id)
        encoded: Json = found[key].value
        return encoded

    async def _save(
        self, checkpoint: WorkflowCheckpoint, encoded: Any, resuming: _Resuming | None
    ) -> None:
        id, previous = checkpoint.checkpoint_id, checkpoint.previous_checkpoint_id
        writes: list[Write] = [
            ("create", _checkpoint(id), encoded),
            ("create", _index(checkpoint.workflow_name, id), [id, checkpoint.timestamp]),
        ]
        if previous is not None:
            writes.append(("create", _next(previous), id))
        if resuming is not None:
            writes.append(("expect", resuming.lease.record))
        elif previous is not None:  # refused as long as somebody has the lease
            writes.append(("write", await self._calls.read(_resumes(previous)), None))
        await commit(self._calls, writes)

    async def _scan(self, workflow: str) -> list[Record]:
        found = await run_async(self._space, self._calls.scan(_index(workflow, "")))
        return sorted(found.values(), key=lambda each: each.position)

    async def _read(self, ids: Sequence[str]) -> list[WorkflowCheckpoint]:
        keys = [_checkpoint(id) for id in ids]
        found = await run_async(self._space, self._calls.read_many(keys))
        return [self._decoded(found[key].value) for key in keys if found[key].exists]

    async def _let_go(self, resuming: _Resuming) -> None:
        if self._resuming.get(resuming.checkpoint_id) is resuming:
            del self._resuming[resuming.checkpoint_id]
            with suppress(InterlockError):  # a store that is away: the lease ends with its time
                await give_up(resuming.lease)

    def _let_go_later(self, resuming: _Resuming, _: object) -> None:
        task = asyncio.get_running_loop().create_task(self._let_go(resuming))
        self._ending.add(task)  # the event loop holds its tasks weakly
        task.add_done_callback(self._ending.discard)


class _Resuming(NamedTuple):
    """The right of a task to go on from a checkpoint."""

    checkpoint_id: str
    lease: Lease | AsyncLease
    task: asyncio.Task[Any] | None


def _checkpoint(id: str) -> str:
    return f"{_ROOT}/checkpoints/{quoted(id)}"


def _next(id: str) -> str:
    return f"{_ROOT}/next/{quoted(id)}"


def _resumes(id: str) -> str:
    return f"{_ROOT}/resumes/{quoted(id)}"


def _index(workflow: str, id: str) -> str:
    return f"{_ROOT}/workflows/{quoted(workflow, 200)}/{quoted(id, 200) if id else ''}"


async def _delete(space: AsyncSpace, key: str) -> None:
    """Delete a key if it exists, whatever it holds."""
    while True:
        record = await space.read(key)
        try:
            if record.exists:
                await space.delete(record)
            return
        except Conflict:
            continue


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


# The end of a run, which the framework does not tell a storage

_storages: weakref.WeakSet[CheckpointStorage] = weakref.WeakSet()


def _let_runs_end() -> None:
    """Let the runs of workflows say that they have ended.  Twice does nothing."""
    run = Workflow.run
    if hasattr(run, "says_its_end"):
        return

    async def end(checkpoint_id: str) -> None:
        for storage in list(_storages):
            await storage.end(checkpoint_id)

    async def whole(running: Awaitable[Any], checkpoint_id: str) -> Any:
        try:
            return await running
        finally:
            await end(checkpoint_id)

    @wraps(run)
    def run_to_its_end(self: Workflow, *args: Any, **named: Any) -> Any:
        running, checkpoint_id = run(self, *args, **named), named.get("checkpoint_id")
        if checkpoint_id is None:
            return running
        if isinstance(running, ResponseStream):
            return running.with_cleanup_hook(partial(end, checkpoint_id))
        return whole(running, checkpoint_id)

    vars(run_to_its_end)["says_its_end"] = True
    setattr(Workflow, "run", run_to_its_end)  # noqa: B010  # a method of theirs
