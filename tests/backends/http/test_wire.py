"""Requests and answers arrive as they were sent."""

from __future__ import annotations

from typing import Any

import pytest

import interlock
from interlock.backends.http.wire import (
    ANSWERS,
    Malformed,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from interlock.core import refusals, requests, transfer
from interlock.core.plan import Expect
from interlock.core.refusals import Wait
from interlock.core.requests import Request

VALUE = {"text": "ä\u2028\U0001f600", "n": [2**80, -1, 1.5, 1e300, True, None], "deep": {"a": {}}}
REQUESTS: list[Request[Any]] = [
    requests.Load(("k", "m", "none"), ("", "x"), "op"),
    requests.LoadAt(position=2, time_us=None, keys=("k",), prefixes=("",)),
    requests.LoadAt(position=0, time_us=None, keys=("k",)),
    requests.ListKeys(prefix="", after="", limit=10),
    requests.ListExpired(limit=10),
    requests.ListWaiters("k", limit=10),
    requests.ReadLog(after=0, limit=10),
    requests.ReadValues(after=0, limit=10, key="m"),
    requests.TakeTurn(("k",), name="turn", agent="a", ttl=5.0),
    requests.LeaveTurn(0, name="turn"),
    requests.Enter(agent="a", exclusive=True, name="n"),
    requests.TakeLease(("k", "m"), name="n", agent="a", incarnation=0, ttl=5.0),
    requests.TakeLease(("k",), name="n", agent="a", incarnation=7, ttl=5.0),
    requests.DropLease("k", epoch=1),
    requests.SaveFold("m", position=2, body="[1]", rules=1),
    requests.SaveProjection("p", position=2, body="{}", erasures=0),
    requests.LoadProjection("p"),
    requests.DropProjection("p"),
    requests.Trim(upto=0, folds=()),
    requests.Redact(("k",), (1,)),
    requests.Scrub(),
    requests.Noted(refusals.fenced("k", 1, 2), "a"),
    requests.ReadRefusals(limit=10),
    requests.ReadGroup("g", consumer="c", prefix="", ttl=5.0, limit=10, name="n"),
    requests.AckGroup("g", consumer="c", positions=(1,), deliveries=(1,)),
    requests.GroupState("g"),
    requests.GroupState("none"),
    requests.ListGroups(),
    requests.DropGroup("g"),
    requests.Pause(0.0),
    transfer.Dump(),
    transfer.ReadBase(after="", limit=10, position=2),
]


def test_every_request_and_its_answer_arrive_as_they_were_sent() -> None:
    rules = {"m": interlock.merged("append")}
    with interlock.open("sqlite://", agent="us", rules=rules) as space:
        space.create("k", VALUE, op_id="op")
        space.append("m", VALUE)
        backend = space.session.driver.backend
        commit = requests.Commit(space.session.writer.plan("id", writes=[], expects=[]))
        for request in REQUESTS:
            assert decode_request(encode_request(request)) == request
            answer = backend.perform(request)
            assert decode_answer(request, encode_answer(answer)) == answer
            assert type(decode_answer(request, encode_answer(answer))) is type(answer)
        assert decode_request(encode_request(commit)) == commit
        asked = {type(request) for request in (*REQUESTS, commit)}
        assert asked == set(ANSWERS)
        known = {each for each in vars(requests).values() if _is_request(each)}
        assert known - asked == {requests.Think}, "which is the driver's"
        fresh = space.read("k")
        cycle = (Wait("a", "k", "b"),)
        for refusal in (
            refusals.conflict(Expect("k", 1, 0), fresh),
            refusals.outdated(3, fresh),
            refusals.held("k", "b", 1.5),
            refusals.deadlock(cycle),
            refusals.Contended("why", "k", 3, refusals.held("k", "b", 1.5)),
            refusals.IllegalTransition("why", "k", "m", None, "b", ("a",)),
            refusals.Forbidden("why", "k", "*", "private"),
            refusals.Invalid("why", "k", by_rules=True),
            refusals.pruned(1, 5),
        ):
            assert decode_answer(commit, encode_answer(refusal)) == refusal


def _is_request(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Request) and found is not Request


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"Think": {}}', b'{"Load": {}, "Pause": {}}']
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_request(body)
