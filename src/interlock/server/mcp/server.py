"""The MCP server: tools over one space, on standard input and output or over HTTP.

Every client of the protocol can use it; several at once may, on any number of servers.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from itertools import islice
from typing import Any

import mcp_types as types
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types
from mcp import MCPError
from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

import interlock
from interlock import InterlockError, Json
from interlock.server.mcp.agents import Agents, Caller, calling
from interlock.server.mcp.answers import Answer, Refusal, refusal_of
from interlock.server.mcp.calls import CALLS, about
from interlock.server.mcp.tools import INSTRUCTIONS, TOOLS, Tool
from interlock.settings import refuse_reserved

_log = logging.getLogger("interlock.mcp")
_VALIDATORS = {name: Draft202012Validator(tool.input_schema) for name, tool in TOOLS.items()}
_MOST_WRONG = 5  # arguments that are told to be wrong
_MOST_SAID = 200  # characters of what is wrong with each: it may hold the whole value

Context = ServerRequestContext[Any, Any]


def make_server(agents: Agents, read_only: bool = False) -> Server[object]:
    """Return an MCP server for the connections whose agents are `agents`.

    `read_only`: the tools that write are not there.
    """
    handlers = _Handlers(agents, read_only)
    server: Server[object] = Server(
        "interlock",
        version=interlock.__version__,
        title="Interlock: shared state of many agents",
        instructions=INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
    )
    server.middleware.append(handlers.only_with_a_session)
    return server


class _Handlers:
    """What the server does with requests."""

    def __init__(self, agents: Agents, read_only: bool) -> None:
        self._agents = agents
        self._read_only = read_only
        self._tools = {name: tool for name, tool in TOOLS.items() if tool.reads or not read_only}

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.described() for tool in self._tools.values()])

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Call a tool.  A refusal is an answer, and an error for the model that reads it."""
        if params.name not in TOOLS:
            known = ", ".join(self._tools)
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {params.name!r:.80}; use {known}")
        answer = await self._answered(ctx, TOOLS[params.name], params.arguments or {})
        return types.CallToolResult(
            content=[types.TextContent(text=json.dumps(answer, ensure_ascii=False))],
            structured_content=answer,
            is_error=not answer["ok"],
        )

    async def _answered(self, ctx: Context, tool: Tool, arguments: Mapping[str, Json]) -> Answer:
        name = ""
        try:
            if tool.name not in self._tools:
                raise Refusal("Forbidden", "This server is read-only.", "Use the tools that read.")
            checked = _checked(tool, arguments)
            refuse_reserved([*checked.get("keys", ()), checked.get("key")])
            caller = _caller(ctx)
            calling.set(caller.session)
            agent = await self._agents.of(caller)
            name = agent.name
            if tool.name == "about":
                return {"ok": True, **await about(self._agents, agent, self._read_only)}
            return {"ok": True, **await CALLS[tool.name](agent, checked)}
        except Refusal as refusal:
            return {"ok": False, "refusal": refusal.answer}
        except InterlockError as problem:
            return {"ok": False, "refusal": refusal_of(problem, name)}
        except Exception:
            mark = secrets.token_hex(4)
            _log.exception("%s failed (%s)", tool.name, mark)
            said = f"The server failed; see {mark} in its log."
            step = "Tell a person. To learn whether a write was applied, read the key."
            return {"ok": False, "refusal": Refusal("InternalError", said, step).answer}

    async def only_with_a_session(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Send clients without a session back to the handshake, where nothing else names them."""
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        if modern and ctx.request is not None and not self._agents.knows(_caller(ctx)):
            raise MCPError(
                types.UNSUPPORTED_PROTOCOL_VERSION,
                "without a name for each access token, clients are told apart by their sessions",
                {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": ctx.protocol_version},
            )
        return await call_next(ctx)


def _caller(ctx: Context) -> Caller:
    params = ctx.session.client_params
    client = params.client_info.name if params is not None else ""
    if ctx.request is None:
        return Caller(client)
    user = ctx.request.scope.get("user")
    named = user.access_token.subject if isinstance(user, AuthenticatedUser) else None
    return Caller(client, ctx.request.headers.get("mcp-session-id", ""), named)


def _checked(tool: Tool, arguments: Mapping[str, Json]) -> dict[str, Json]:
    """Return the arguments of a call.  Raises Refusal where they do not fit the tool's schema."""
    wrong = list(islice(_VALIDATORS[tool.name].iter_errors(arguments), _MOST_WRONG))
    if wrong:
        said = (f"{'/'.join(map(str, each.absolute_path))}: {each.message}" for each in wrong)
        raise Refusal(
            "Invalid",
            "; ".join(each.removeprefix(": ")[:_MOST_SAID] for each in said),
            "Fix the arguments: see the tool's schema. Nothing was done.",
        )
    whole = {name for name, schema in tool.properties.items() if schema.get("type") == "integer"}
    # JSON has one kind of number: 2.0 is a version, too.
    return {name: int(each) if name in whole else each for name, each in arguments.items()}
