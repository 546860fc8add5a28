"""What the MCP server does with requests: tools are called, and keys are read as resources."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, TypeVar

import mcp_types as types
from jsonschema import Draft202012Validator
from mcp import MCPError
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from interlock import InterlockError, Invalid, Json
from interlock.server.mcp.agents import Agent, Agents, Caller, calling
from interlock.server.mcp.calls import CALLS, Answer, Refusal, about, refusal_of
from interlock.server.mcp.resources import Changes, KeyResources, Resources
from interlock.server.mcp.tools import INSTRUCTIONS, TOOLS, Tool
from interlock.settings import refuse_reserved

_log = logging.getLogger("interlock.mcp")
_MOST_WRONG = 5  # arguments that are told to be wrong
_MOST_SAID = 200  # characters of what is wrong with each: it may hold the whole value

Context = ServerRequestContext[Any, Any]
T = TypeVar("T")


class Handlers:
    """The tools over keys, and every key as a resource.  Other profiles are derived from it."""

    NAME = "interlock"
    TITLE = "Interlock: shared state of many agents"
    INSTRUCTIONS: str | None = INSTRUCTIONS
    TOOLS: ClassVar[Mapping[str, Tool]] = TOOLS

    def __init__(self, agents: Agents, read_only: bool) -> None:
        self._agents = agents
        self._read_only = read_only
        self._tools = {
            name: tool for name, tool in self.TOOLS.items() if tool.reads or not read_only
        }
        self._validators = {
            name: Draft202012Validator(tool.input_schema) for name, tool in self.TOOLS.items()
        }
        self.changes = Changes(agents, self.resources)

    @cached_property
    def resources(self) -> Resources:
        """What can be read as resources."""
        return KeyResources(self._agents.space_name)

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """List the tools."""
        return types.ListToolsResult(tools=[tool.described() for tool in self._tools.values()])

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Call a tool.  A refusal is an answer, and an error for the model that reads it."""
        if params.name not in self.TOOLS:
            known = ", ".join(self._tools)
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {params.name!r:.80}; use {known}")
        tool, name = self.TOOLS[params.name], ""
        try:
            if tool.name not in self._tools:
                raise Refusal("Forbidden", "This server is read-only.", "Use the tools that read.")
            arguments = self._checked(tool, params.arguments or {})
            agent = await self._agent(ctx)
            name = agent.name
            return await self.answered(agent, tool, arguments)
        except Refusal as refusal:
            return self.refused(refusal.answer)
        except InterlockError as problem:
            return self.refused(refusal_of(problem, name))
        except Exception:
            mark = secrets.token_hex(4)
            _log.exception("%s failed (%s)", tool.name, mark)
            said = f"The server failed; see {mark} in its log."
            step = "Tell a person. To learn whether a write was applied, read the key."
            return self.refused(Refusal("InternalError", said, step).answer)

    async def answered(
        self, agent: Agent, tool: Tool, arguments: dict[str, Json]
    ) -> types.CallToolResult:
        """Return what a tool answers.  Raises Refusal, a refusal or a fault."""
        refuse_reserved([*arguments.get("keys", ()), arguments.get("key")])
        if tool.name == "about":
            return _result({"ok": True, **await about(self._agents, agent, self._read_only)})
        return _result({"ok": True, **await CALLS[tool.name](agent, arguments)})

    def refused(self, refusal: Answer) -> types.CallToolResult:
        """Return a refusal as the answer of a tool."""
        return _result({"ok": False, "refusal": refusal})

    async def list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """List a page of the resources."""
        cursor = None if params is None else params.cursor
        return await self._from_resources(ctx, lambda agent: self.resources.page(agent, cursor))

    async def list_resource_templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """List how resources are named."""
        return types.ListResourceTemplatesResult(resource_templates=self.resources.templates)

    async def read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """Read a resource, as JSON."""
        uri = str(params.uri)
        text = await self._from_resources(ctx, lambda agent: self.resources.read(agent, uri))
        if text is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no resource {uri!r:.600}.")
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[contents])

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

    def _checked(self, tool: Tool, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """Return the arguments of a call.  Raises Refusal where they do not fit its schema."""
        wrong = list(islice(self._validators[tool.name].iter_errors(arguments), _MOST_WRONG))
        if wrong:
            said = (f"{'/'.join(map(str, each.absolute_path))}: {each.message}" for each in wrong)
            raise Refusal(
                "Invalid",
                "; ".join(each.removeprefix(": ")[:_MOST_SAID] for each in said),
                "Fix the arguments: see the tool's schema. Nothing was done.",
            )
        whole = {name for name, each in tool.properties.items() if each.get("type") == "integer"}
        # JSON has one kind of number: 2.0 is a version, too.
        return {name: int(each) if name in whole else each for name, each in arguments.items()}

    async def _agent(self, ctx: Context) -> Agent:
        caller = _caller(ctx)
        calling.set(caller.session)
        return await self._agents.of(caller)

    async def _from_resources(self, ctx: Context, ask: Callable[[Agent], Awaitable[T]]) -> T:
        try:
            return await ask(await self._agent(ctx))
        except InterlockError as problem:
            asked_wrong = isinstance(problem, Invalid)
            code = types.INVALID_PARAMS if asked_wrong else types.INTERNAL_ERROR
            raise MCPError(code, str(problem)) from problem


def _result(answer: Answer) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(text=json.dumps(answer, ensure_ascii=False))],
        structured_content=answer,
        is_error=not answer["ok"],
    )


def _caller(ctx: Context) -> Caller:
    params = ctx.session.client_params
    client = params.client_info.name if params is not None else ""
    if ctx.request is None:
        return Caller(client)
    user = ctx.request.scope.get("user")
    named = user.access_token.subject if isinstance(user, AuthenticatedUser) else None
    return Caller(client, ctx.request.headers.get("mcp-session-id", ""), named)
