"""The MCP server as clients start or reach it: processes, names, access tokens, signals."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from tests.processes.writers import Place
from tests.server.mcp_clients import (
    BACKENDS,
    INTERLOCK,
    Tools,
    a_place,
    http_server,
    on_stdio,
    over_http,
    using,
)

PROCESSES, EACH = 4, 25
RULES = {"agent/{agent}/**": interlock.private()}


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return a_place(request, tmp_path)


CLINIC = """
from interlock.cipher import SQLiteKeys, SubjectCipher
cipher = SubjectCipher(SQLiteKeys({path!r}), lambda key: key.split("/")[0])
"""


async def test_a_server_with_a_cipher_reads_and_writes_what_is_encrypted(
    local: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clinic.py").write_text(CLINIC.format(path=str(tmp_path / "keys.db")), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with using(on_stdio(local, "--cipher", "clinic:cipher")) as tools:
        await tools.done("create", key="alice/1", value={"mail": "alice@example.com"})
        assert (await tools.record("alice/1"))["value"] == {"mail": "alice@example.com"}
    with interlock.Store(local.url) as store:
        assert "alice@example.com" not in "".join(store.export(local.space))
    async with using(on_stdio(local)) as tools:
        refused = await tools.refused("Invalid", "read", keys=["alice/1"])
        assert "is encrypted" in refused["message"]


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(f"sqlite:///{tmp_path / 'local.db'}", "s")


async def contribute(tools: Tools, name: str, times: int) -> None:
    """Add items to one list by read and write, doing after a refusal what it says."""
    for number in range(times):
        record = await tools.record("memory")
        while True:
            at = {"version": record["version"], "epoch": record["epoch"]}
            value = [*(record["value"] or []), f"{name}:{number}"]
            answer = await tools("write", key="memory", value=value, **at)
            if answer["ok"]:
                break
            assert answer["refusal"]["retryable"], answer
            record = answer["refusal"].get("record") or await tools.record("memory")


def kept(place: Place) -> list[str]:
    with interlock.open(place.url, space=place.space) as space:
        found: list[str] = space.read("memory").value
    return found


# Standard input and output


@pytest.mark.slow  # four servers, each a process
async def test_four_servers_keep_every_write(place: Place) -> None:
    async def work(number: int) -> None:
        async with using(on_stdio(place)) as tools:
            await contribute(tools, str(number), EACH)

    await asyncio.gather(*map(work, range(PROCESSES)))
    expected = {f"{number}:{item}" for number in range(PROCESSES) for item in range(EACH)}
    assert (len(kept(place)), set(kept(place))) == (PROCESSES * EACH, expected)


@pytest.mark.slow  # four servers, one after the other
async def test_on_stdio_a_client_is_the_agent_it_was_started_for(local: Place) -> None:
    place = local
    with interlock.open(place.url, space=place.space, rules=RULES):
        pass
    async with using(on_stdio(place, "--agent", "planner", client="critic")) as tools:
        assert await tools.agent() == "planner"
        await tools.done("create", key="agent/planner/notes", value=1)
    names = set()
    for mode in ("auto", "legacy"):
        async with using(on_stdio(place, client="planner", mode=mode)) as tools:
            names.add(name := await tools.agent())
            assert name.startswith("planner-")
            for owner in ("planner", "tester"):
                await tools.refused("Forbidden", "create", key=f"agent/{owner}/x", value=1)
            await tools.done("create", key=f"agent/{name}/x", value=1)
    async with using(on_stdio(place, client="a/b {agent} \U0001f680" + "é" * 99)) as tools:
        names.add(name := await tools.agent())
        await tools.done("create", key=f"agent/{name}/x", value=1)
    assert len(names) == 3


def speak(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def asked(number: int, method: str, **parameters: Any) -> bytes:
    told = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
    return json.dumps(told).encode()


HELLO = asked(
    1,
    "initialize",
    protocolVersion="2025-06-18",
    capabilities={},
    clientInfo={"name": "raw", "version": "1"},
)


@pytest.fixture
def raw(local: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A server to which a client has said hello, without the SDK in between."""
    process = subprocess.Popen(
        [INTERLOCK, "mcp", local.url, "--agent", "raw"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        speak(process, HELLO)
        assert json.loads(process.stdout.readline())["id"] == 1
        speak(process, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        yield process
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.mark.slow  # a server process
def test_nothing_but_the_protocol_is_on_standard_output(raw: subprocess.Popen[bytes]) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000

    def create(number: int, arguments: bytes) -> bytes:
        call = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":%s}'
        return call % (number, b'{"name":"create","arguments":%s}' % arguments)

    speak(
        raw,
        b"this is no JSON",
        b"",
        b"\xff\xfe",
        create(2, b'{"key":"deep","value":' + deep + b"}"),
        create(3, b'{"key":"nan","value":NaN}'),
        create(4, b'{"key":"inf","value":[1e999]}'),
        create(5, b'{"key":"nested","value":' + b"[" * 150 + b"]" * 150 + b"}"),
        create(6, b'{"key":"large","value":"' + b"x" * 5_000_000 + b'"}'),
        asked(7, "tools/call", name="no_such_tool", arguments={}),
        create(8, b'{"key":"k","value":' + str(10**30).encode() + b"}"),
    )
    assert raw.stdin is not None
    assert raw.stdout is not None
    answers: dict[int, Any] = {}
    while 8 not in answers or 7 not in answers or 6 not in answers:
        told = json.loads(raw.stdout.readline())
        if told.get("id") is not None:
            answers[told["id"]] = told
    for number in (3, 4, 6):
        content = answers[number]["result"]["structuredContent"]
        assert content["refusal"]["kind"] == "Invalid", content
    assert "use about, read" in answers[7]["error"]["message"]
    assert answers[8]["result"]["structuredContent"]["record"]["value"] == 10**30
    raw.stdin.close()
    assert raw.wait(30) == 0
    assert raw.stdout.read() == b""


@pytest.mark.slow  # a server process for each
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_gives_its_leases_up(
    raw: subprocess.Popen[bytes], local: Place, number: signal.Signals, code: int
) -> None:
    speak(raw, asked(2, "tools/call", name="take_lease", arguments={"key": "k"}))
    assert raw.stdout is not None
    assert raw.stderr is not None
    assert json.loads(raw.stdout.readline())["result"]["structuredContent"]["ok"]
    with interlock.open(local.url) as space:
        with pytest.raises(interlock.Held):
            space.create("k", 1)
        raw.send_signal(number)
        assert raw.wait(30) == code
        space.create("k", 1)
    assert (raw.stdout.read(), raw.stderr.read()) == (b"", b"")


# HTTP


@pytest.mark.slow  # a server process for each kind of store
async def test_clients_over_http_share_a_space_each_under_its_own_name(place: Place) -> None:
    with interlock.open(place.url, space=place.space, rules=RULES):
        pass
    names: list[str] = []

    async def work(url: str, number: int) -> None:
        mode = ("auto", "legacy")[number % 2]
        async with using(over_http(url, client="claude", mode=mode)) as tools:
            names.append(name := await tools.agent())
            await tools.done("create", key=f"agent/{name}/x", value=number)
            await contribute(tools, str(number), 5)
            for other in names:
                if other != name:
                    at = {"key": f"agent/{other}/x", "version": 1, "epoch": 0}
                    await tools.refused("Forbidden", "write", value="mine", **at)
            assert await tools.agent() == name

    with http_server(place) as url:
        await asyncio.gather(*(work(url, number) for number in range(4)))
        async with using(over_http(url, client=names[0])) as tools:
            assert await tools.agent() not in names
    assert len({*names}) == 4
    assert all(name.startswith("claude-") for name in names)
    assert len(kept(place)) == len({*kept(place)}) == 20


TOKENS = ("--token", "planner:p-secret", "--token", "critic:c-secret", "--token", "plain")


@pytest.mark.slow  # a server process
async def test_an_access_token_stands_for_a_name(local: Place) -> None:
    with interlock.open(local.url, space=local.space, rules=RULES):
        pass
    with http_server(local, *TOKENS) as url:
        for mode in ("auto", "legacy"):
            async with using(over_http(url, "p-secret", "critic", mode)) as tools:
                assert version_of(tools) == ("2026" if mode == "auto" else "2025")
                assert await tools.agent() == "planner"
                await tools.refused("Forbidden", "create", key="agent/critic/x", value=1)
                await tools.done("create", key=f"agent/planner/{mode}", value=1)
                lease = (await tools.done("take_lease", key=f"k/{mode}"))["lease"]
                async with using(over_http(url, "c-secret")) as critic:
                    assert await critic.agent() == "critic"
                    await critic.refused("Invalid", "release_lease", lease_id=lease["lease_id"])
                    await critic.refused("Held", "take_lease", key=f"k/{mode}")
            # Whoever comes back under its name finds what it holds.
            async with using(over_http(url, "p-secret")) as tools:
                await tools.done("release_lease", lease_id=lease["lease_id"])
        async with using(over_http(url, "plain", "planner")) as tools:
            assert (await tools.agent()).startswith("planner-")
            assert version_of(tools) == "2025"


def version_of(tools: Tools) -> str:
    """The year of the protocol that is spoken: from 2026 on there are no sessions."""
    return str(tools.client.session.protocol_version)[:4]


def post(url: str, body: bytes = HELLO, /, **headers: str) -> httpx2.Response:
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(url, content=body, headers=accept | named)


@pytest.mark.slow  # a server process
def test_who_may_not_come_in_over_http(local: Place) -> None:
    with http_server(local, *TOKENS, "--allow-host", "team.example") as url:
        let_in = {"Authorization": "Bearer p-secret"}
        assert post(url).status_code == 401
        assert post(url, Authorization="Bearer wrong").status_code == 401
        assert post(url, Authorization="Basic p-secret").status_code == 401
        assert post(url, **let_in).status_code == 200
        assert post(url, **let_in, Host="team.example").status_code == 200
        assert post(url, **let_in, Host="evil.example").status_code == 421
        assert post(url, **let_in, Origin="https://evil.example").status_code == 403
        assert post(url, b"x" * 17 * 2**20, **let_in).status_code == 413
        session = post(url, **let_in).headers["mcp-session-id"]
        about = asked(2, "tools/call", name="about", arguments={})
        mine = {"mcp_session_id": session}
        assert post(url, about, **let_in, **mine).status_code == 200
        assert post(url, about, Authorization="Bearer c-secret", **mine).status_code == 404
        assert post(url, about, Authorization="Bearer plain", **mine).status_code == 404


@pytest.mark.slow  # a server process
async def test_a_token_may_come_from_the_environment(local: Place) -> None:
    with http_server(local, INTERLOCK_MCP_TOKEN="planner:one plain") as url:
        async with using(over_http(url, "one")) as tools:
            assert await tools.agent() == "planner"
        async with using(over_http(url, "plain")) as tools:
            assert await tools.agent() != "planner"
        assert post(url, Authorization="Bearer two").status_code == 401


@pytest.mark.slow  # a server process
def test_ctrl_c_ends_an_http_server_whose_clients_still_listen(local: Place) -> None:
    command = [INTERLOCK, "mcp", local.url, "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = server.stderr.readline().removeprefix("serving at ").strip()
        session = post(url).headers["mcp-session-id"]
        listening = {"Accept": "text/event-stream", "mcp-session-id": session}
        with httpx2.stream("GET", url, headers=listening) as stream:
            assert stream.status_code == 200
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["sqlite://"], 2, "in memory"),
        (["--exclusive"], 2, "--exclusive needs a name"),
        (["--token", "secret"], 2, "need --http"),
        (["--http", "8000"], 2, "HOST:PORT"),
        (["--http", "127.0.0.1:99999"], 2, "HOST:PORT"),
        (["--http", "0.0.0.0:0"], 2, "pass a --token"),
        (["--http", "127.0.0.1:0", "--token", "planner:"], 2, "A token has only"),
        (["--http", "127.0.0.1:0", "--token", ":secret"], 2, "A token has only"),
        (["--http", "127.0.0.1:0", "--token", "a:x", "--token", "b:x"], 2, "given twice"),
        (["--agent", " planner"], 2, "white space"),
        (["--read-only"], 1, "No Interlock store"),
        (["--rules", "no-such-file.json"], 2, "t read "),
        (["--cipher", "nowhere:cipher"], 2, "t import nowhere:cipher"),
        (["--cipher", "sys:path"], 2, "encrypt"),
    ],
)
def test_what_it_is_not_started_with(
    tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    url = [] if options[0].startswith("sqlite") else [f"sqlite:///{tmp_path / 'new.db'}"]
    ran = run(*url, *options)
    assert (ran.exit_code, ran.stdout) == (code, "")
    assert said in ran.stderr


def test_a_port_that_is_taken_is_said(local: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        ran = run(local.url, "--http", f"127.0.0.1:{port}")
    assert ran.exit_code == 1
    assert f"t listen on 127.0.0.1:{port}" in ran.stderr


def test_without_the_sdk_it_says_what_to_install(local: Place) -> None:
    without = "import sys; sys.modules['mcp'] = None; from interlock.cli import main; main()"
    ran = subprocess.run(
        [Path(INTERLOCK).parent / "python", "-c", without, "mcp", local.url],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "pip install 'interlock[mcp]'" in ran.stderr


def run(*arguments: str) -> Result:
    """Run the command in this process; it ends before it serves anybody."""
    return CliRunner().invoke(main, ["mcp", *arguments])
