"""`guards.custom` over an HTTP server with ETags, S3 and DynamoDB: two functions are enough.

The HTTP server is a real one; S3 and DynamoDB are those of moto, in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import boto3
import botocore.exceptions
import moto
import pytest
from boto3.dynamodb.conditions import Attr

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.shelf import Shelf


class Shared(NamedTuple):
    """How to load and replace a value, and how others overwrite it."""

    load: Callable[[str], Any]
    replace: Callable[[str, Any, Any], Any]
    overwrite: Callable[[str, Any], object]


class Documents(BaseHTTPRequestHandler):
    """Documents at paths, with the ETags and the preconditions of RFC 9110."""

    there: dict[str, bytes]
    lock: threading.Lock

    def do_GET(self) -> None:
        """Answer with the document and its ETag."""
        body = self.there.get(self.path)
        self._answer(404 if body is None else 200, body or b"")

    def do_PUT(self) -> None:
        """Replace the document, if the precondition holds."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            if self._holds():
                self.there[self.path] = body
                self._answer(204, b"", etag(body))
            else:
                self._answer(412, b"")

    def do_DELETE(self) -> None:
        """Delete the document, if the precondition holds."""
        with self.lock:
            held = self._holds()
            if held:
                self.there.pop(self.path, None)
        self._answer(204 if held else 412, b"")

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""

    def _holds(self) -> bool:
        body = self.there.get(self.path)
        if self.headers.get("If-None-Match") == "*":
            return body is None
        wanted = self.headers.get("If-Match")
        return wanted is None or (body is not None and wanted == etag(body))

    def _answer(self, status: int, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("ETag", tag or etag(body))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def etag(body: bytes) -> str:
    """Return the ETag of a document."""
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


@pytest.fixture
def http() -> Iterator[Shared]:
    """A server on this machine."""
    handler = type("Handler", (Documents,), {"there": {}, "lock": threading.Lock()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield http_functions(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


def http_functions(base: str) -> Shared:
    """Load with GET, replace with PUT and If-Match."""

    def ask(
        method: str, key: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Any:
        request = urllib.request.Request(f"{base}/{key}", data, headers or {}, method=method)
        return urllib.request.urlopen(request, timeout=30)

    def load(key: str) -> Any:
        try:
            with ask("GET", key) as answer:
                return answer.headers["ETag"], json.load(answer)
        except urllib.error.HTTPError as problem:
            if problem.code == 404:
                return None
            raise

    def replace(key: str, tag: str | None, value: Any) -> Any:
        condition = {"If-None-Match": "*"} if tag is None else {"If-Match": tag}
        try:
            if value is guards.ABSENT:
                ask("DELETE", key, None, condition).close()
                return None
            with ask("PUT", key, json.dumps(value).encode(), condition) as answer:
                return answer.headers["ETag"]
        except urllib.error.HTTPError as problem:
            if problem.code == 412:
                return guards.CONFLICT
            raise

    return Shared(load, replace, lambda key, value: ask("PUT", key, json.dumps(value).encode()))


@pytest.fixture
def aws() -> Iterator[dict[str, str]]:
    """What a client of moto's is made with."""
    with moto.mock_aws():
        yield {
            "region_name": "us-east-1",
            "aws_access_key_id": "nobody",
            "aws_secret_access_key": "nothing",
        }


@pytest.fixture
def s3(aws: dict[str, str]) -> Shared:
    """A bucket of S3: If-Match on PutObject."""
    client: Any = boto3.client("s3", **aws)
    client.create_bucket(Bucket="app")

    def load(key: str) -> Any:
        try:
            found = client.get_object(Bucket="app", Key=key)
        except client.exceptions.NoSuchKey:
            return None
        return found["ETag"], json.loads(found["Body"].read())

    def replace(key: str, tag: str | None, value: Any) -> Any:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            if value is guards.ABSENT:
                client.delete_object(Bucket="app", Key=key, IfMatch=tag)
                return None
            return client.put_object(
                Bucket="app", Key=key, Body=json.dumps(value).encode(), **condition
            )["ETag"]
        except botocore.exceptions.ClientError as problem:
            codes = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")
            if problem.response["Error"]["Code"] in codes:
                return guards.CONFLICT
            raise

    def overwrite(key: str, value: Any) -> object:
        return client.put_object(Bucket="app", Key=key, Body=json.dumps(value).encode())

    return Shared(load, replace, overwrite)


@pytest.fixture
def dynamodb(aws: dict[str, str]) -> Shared:
    """A table of DynamoDB: the body that was read is the condition."""
    resource: Any = boto3.resource("dynamodb", **aws)
    table = resource.create_table(
        TableName="app",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    failed = resource.meta.client.exceptions.ConditionalCheckFailedException

    def load(key: str) -> Any:
        item = table.get_item(Key={"id": key}, ConsistentRead=True).get("Item")
        return None if item is None else (item["body"], json.loads(item["body"]))

    def replace(key: str, tag: str | None, value: Any) -> Any:
        same = Attr("id").not_exists() if tag is None else Attr("body").eq(tag)
        try:
            if value is guards.ABSENT:
                table.delete_item(Key={"id": key}, ConditionExpression=same)
                return None
            body = json.dumps(value)
            table.put_item(Item={"id": key, "body": body}, ConditionExpression=same)
            return body
        except failed:
            return guards.CONFLICT

    def overwrite(key: str, value: Any) -> object:
        return table.put_item(Item={"id": key, "body": json.dumps(value)})

    return Shared(load, replace, overwrite)


@pytest.mark.parametrize("service", ["http", "s3", "dynamodb"])
def test_two_functions_guard_a_service(service: str, request: pytest.FixtureRequest) -> None:
    shared: Shared = request.getfixturevalue(service)
    guard = guards.custom(shared.load, shared.replace, machine=interlock.BOOKING)
    plain = guards.custom(shared.load, shared.replace)
    key = f"booking-{uuid.uuid4().hex}"
    assert not guard.read(key).exists
    made = guard.create(key, {"status": "PENDING_PAYMENT", "seat": None})
    with pytest.raises(interlock.Conflict, match="already exists"):
        guard.create(key, {"status": "PENDING_PAYMENT"})
    shared.overwrite(key, {"status": "PENDING_PAYMENT", "seat": "12A"})
    writes: list[Callable[[], Any]] = [
        lambda: guard.write(made, made.value),
        lambda: plain.delete(made),
    ]
    for write in writes:
        with pytest.raises(interlock.Conflict, match="changed by a writer outside") as caught:
            write()
        assert caught.value.record.value["seat"] == "12A"
    thoughts: list[Any] = []

    def think(value: Any) -> Any:
        thoughts.append(value["seat"])
        if len(thoughts) == 1:
            shared.overwrite(key, {**value, "seat": "14C"})
        return {**value, "meal": "vegan"}

    guard.update(key, think)
    assert (thoughts, guard.read(key).value["seat"]) == (["12A", "14C"], "14C")
    paid = guard.transition(key, "CANCELLED")
    assert shared.load(key)[1] == paid.value
    assert not plain.delete(paid).exists
    assert shared.load(key) is None


def test_agents_at_once_lose_nothing_on_a_real_server(http: Shared) -> None:
    guard = guards.custom(http.load, http.replace)
    guard.create("counter", {"n": 0})

    def add_one(_: int) -> None:
        guard.update("counter", lambda value: {"n": value["n"] + 1}, attempts=1000, turns="never")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(add_one, range(10)))
    assert guard.read("counter").value == {"n": 10}


@pytest.mark.parametrize("problem", [OSError("cut"), interlock.Unavailable("cut")])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_replace_is_not_called_again_after_an_exception(
    problem: Exception, asynchronous: bool
) -> None:
    shelf, calls = Shelf(), []
    shelf.put("plan", {"n": 1})

    def replace(key: str, tag: Any, value: Any) -> Any:
        calls.append(value)
        shelf.replace(key, tag, value)
        raise problem

    async def replace_async(key: str, tag: Any, value: Any) -> Any:
        return replace(key, tag, value)

    functions: Any = (shelf.load_async, replace_async) if asynchronous else (shelf.load, replace)
    made: Any = guards.custom(*functions)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        guard = Bridge(made, loop) if asynchronous else made
        writes: list[Callable[[], Any]] = [
            lambda: guard.write(guard.read("plan"), {"n": 2}),
            lambda: guard.update("plan", lambda value: {"n": 3}),
            lambda: guard.create("new", {"n": 4}),
        ]
        for write in writes:
            with pytest.raises(type(problem), match="cut"):
                write()
    assert calls == [{"n": 2}, {"n": 3}, {"n": 4}]
