"""What follows the log and what is durable: consumer groups and runs."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from interlock import Delivery, Entry, GroupInfo, Invalid, Json, RunInfo
from interlock.errors import accepted
from interlock.server.http.call import Call, answer, entry_dict
from interlock.server.http.problem import invalid, not_found
from interlock.streams import group

_LONGEST_WAIT = 25.0  # seconds
_RUN = "$run/"


class Take(msgspec.Struct, forbid_unknown_fields=True):
    """Take the next entries for a consumer.  Who gives no sign of life for `ttl` seconds loses
    them to others; `resume` asks again for those that it has not acknowledged."""

    consumer: str
    limit: int = 10
    wait: float = 0.0
    prefix: str = ""
    start: str | int = "beginning"
    ttl: float = 30.0
    resume: bool = False


class Delivered(msgspec.Struct, forbid_unknown_fields=True):
    """An entry that is done, and which delivery of it."""

    position: int
    deliveries: int


class Ack(msgspec.Struct, forbid_unknown_fields=True):
    """Entries that a consumer is done with."""

    consumer: str
    deliveries: list[Delivered]


async def groups(call: Call) -> Response:
    """List the consumer groups."""
    return answer({"groups": await call.space.groups()})


async def show_group(call: Call) -> Response:
    """Show what each consumer of a group holds."""
    return answer((await _group(call))._asdict())


async def _group(call: Call) -> GroupInfo:
    name = call.request.path_params["group"]
    if name not in await call.space.groups():
        raise not_found(f"There is no group {name!r}.")
    info = await call.space.group(name).info()
    call.identity.need_prefix(info.prefix)
    return info


async def take(call: Call) -> Response:
    """Deal the next entries to a consumer."""
    asked: Take = await call.json(Take)
    call.identity.need_prefix(asked.prefix)
    if not 0 <= asked.wait <= _LONGEST_WAIT:
        raise invalid(f"wait={asked.wait} must be from 0 to {_LONGEST_WAIT:g} seconds: ask again.")
    name = call.request.path_params["group"]
    member = accepted(group.membership(name, asked.consumer, asked.prefix, asked.start, asked.ttl))
    session = call.space.session
    steps = group.take(member, asked.limit, asked.wait, asked.resume, session.op_id(call.op_id))
    found = await session.run(steps)
    dealt = [
        {"entry": entry_dict(each.entry, call), "deliveries": each.deliveries}
        for each in found.items
    ]
    return answer({"deliveries": dealt, "upto": found.upto, "head": found.head})


async def ack(call: Call) -> Response:
    """Say that entries are done; those that another consumer has by now do not count."""
    asked: Ack = await call.json(Ack)
    info = await _group(call)
    member = accepted(group.membership(info.name, asked.consumer, info.prefix, "beginning", 30.0))
    done = tuple(Delivery(_at(each.position), each.deliveries) for each in asked.deliveries)
    return answer({"done": await call.space.session.run(group.acknowledge(member, done))})


def _at(position: int) -> Entry:
    """Return an entry of which only the position counts."""
    return Entry(position, "", 0, 0, "", None, "", 0, "", None)


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """A run that a worker takes up: `program` names what it calls, with `input`."""

    id: str
    program: str
    input: Any = None


class Send(msgspec.Struct, forbid_unknown_fields=True):
    """What a run waits for as `name`."""

    name: str
    value: Any = None


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    """Why a run is to fail."""

    reason: str = "cancelled"


async def runs(call: Call) -> Response:
    """List the runs, or those that have not ended."""
    found = await call.space.runs.list(open=call.flag("open"))
    return answer({"runs": [_run(each) for each in found if sees_run(call, each.id)]})


async def start_run(call: Call) -> Response:
    """Begin a run."""
    asked: Start = await call.json(Start)
    _own(call, asked.id)
    await call.space.runs.start(asked.id, asked.program, asked.input)
    return answer(_run(await call.space.runs.show(asked.id)), 201)


async def show_run(call: Call) -> Response:
    """Show a run with its steps."""
    return answer(_run(await found_run(call)))


async def send(call: Call) -> Response:
    """Give a run what it waits for."""
    asked: Send = await call.json(Send)
    run = await found_run(call)
    await call.space.runs.send(run.id, asked.name, asked.value)
    return Response(status_code=204)


async def cancel(call: Call) -> Response:
    """Have a run fail; `failed` is false where effects are to be undone first."""
    asked: Cancel = await call.json(Cancel)
    run = await found_run(call)
    return answer({"failed": await call.space.runs.cancel(run.id, asked.reason)})


async def found_run(call: Call) -> RunInfo:
    """Return the run of the path.  Raises Problem where there is none for the caller."""
    name = call.request.path_params["run"]
    _own(call, name)
    try:
        return await call.space.runs.show(name)
    except Invalid as problem:
        raise not_found(str(problem)) from None


def sees_run(call: Call, name: str) -> bool:
    """Whether a run is shown to the caller."""
    return call.identity.may_key(f"{_RUN}{name}")


def _own(call: Call, name: str) -> None:
    call.identity.need_key(f"{_RUN}{name}")


def _run(info: RunInfo) -> dict[str, Json]:
    return {**info._asdict(), "steps": [step._asdict() for step in info.steps]}
