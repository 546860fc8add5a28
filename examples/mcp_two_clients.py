"""Two MCP clients share a memory: a file behind a simple server loses notes, Interlock keeps all.

    python examples/mcp_two_clients.py [sqlite:///memory.db]

Both clients run the same script.  It stands for a model: it fills in what a tool's schema requires
out of what it has read, and after a refusal thinks again from the record in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver import MCPServer

NOTES = 5  # of each client


def memory_server(file: Path) -> MCPServer:
    """A memory server as one writes it first: it keeps a JSON file."""
    server = MCPServer("memory")

    @server.tool()
    async def read(keys: list[str]) -> dict[str, Any]:
        """Read what is remembered."""
        stored = json.loads(file.read_text()) if file.exists() else {}
        return {"records": [{"key": key, "value": stored.get(key)} for key in keys]}

    @server.tool()
    async def write(key: str, value: Any) -> dict[str, Any]:
        """Remember something."""
        stored = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**stored, key: value}))
        return {"ok": True}

    return server


async def take_notes(client: Client, name: str, read_by_both: asyncio.Barrier) -> int:
    """Add notes to one list; return how many were acknowledged."""
    async with client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        acknowledged = 0
        for number in range(NOTES):
            answer = await called(client, "read", {"keys": ["notes"]})
            record = answer["records"][0]
            await read_by_both.wait()  # both think at the same time
            while True:
                known = {**record, "value": [*(record["value"] or []), f"{name} {number}"]}
                required = tools["write"].input_schema["required"]
                answer = await called(client, "write", {each: known[each] for each in required})
                if answer["ok"]:
                    break
                record = answer["refusal"]["record"]
            acknowledged += 1
            await read_by_both.wait()
        return acknowledged


async def called(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool; return its structured answer."""
    answer: dict[str, Any] = (await client.call_tool(tool, arguments)).structured_content
    return answer


async def compare(connect: Callable[[str], Client]) -> tuple[int, int]:
    """Have two clients take notes; return how many were acknowledged, and how many are there."""
    both = asyncio.Barrier(2)
    names = ("planner", "critic")
    done = await asyncio.gather(*(take_notes(connect(name), name, both) for name in names))
    async with connect("reader") as client:
        answer = await called(client, "read", {"keys": ["notes"]})
    return sum(done), len(answer["records"][0]["value"])


def main(url: str) -> dict[str, tuple[int, int]]:
    """Compare the two servers; return for each what was acknowledged and kept."""
    program = str(Path(sys.executable).with_name("interlock"))
    space = uuid.uuid4().hex  # a space of its own for each time that the example runs

    def interlock_server(name: str) -> StdioServerParameters:
        arguments = ["mcp", url, "--space", space, "--agent", name]
        return StdioServerParameters(command=program, args=arguments, env=dict(os.environ))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "memory.json"
        found = {
            "a memory file": asyncio.run(compare(lambda name: Client(memory_server(file)))),
            "interlock mcp": asyncio.run(compare(lambda name: Client(interlock_server(name)))),
        }
    for server, (acknowledged, kept) in found.items():
        print(f"{server}: {acknowledged} notes acknowledged, {kept} kept")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///memory.db"])
