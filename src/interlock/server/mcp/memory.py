"""The tools of the reference memory server, over the knowledge graph of a space.

Names, schemas and results are those of `@modelcontextprotocol/server-memory`, so that a client only
starts another command.  That one reads a file, changes the graph and writes the file back, and
loses what another process wrote in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import mcp_types as types
from mcp.server.subscriptions import ResourceUpdated, ServerEvent

from interlock import Entry, Json
from interlock.server.mcp.agents import Agent
from interlock.server.mcp.calls import Answer
from interlock.server.mcp.graph import CALLS, GRAPH, read_graph
from interlock.server.mcp.handlers import Context, Handlers
from interlock.server.mcp.resources import Resources
from interlock.server.mcp.tools import Schema, Tool

_URI = "memory://knowledge-graph"


@dataclass(frozen=True)
class _MemoryTool(Tool):
    """A tool whose schemas are those of the reference server, which lets unknown fields pass."""

    output: Mapping[str, Schema] = field(default_factory=dict)

    @property
    def input_schema(self) -> Schema:
        """The JSON schema of its arguments."""
        return _schema(self.properties)

    @property
    def output_schema(self) -> Schema:
        """The JSON schema of its structured content."""
        return _strict(_schema(self.output))

    def described(self) -> types.Tool:
        """Return it as `tools/list` answers it."""
        tool = super().described()
        assert tool.annotations is not None
        return tool.model_copy(
            update={"annotations": tool.annotations.model_copy(update={"title": None})}
        )


def _schema(properties: Mapping[str, Schema]) -> Schema:
    required = {"required": [*properties]} if properties else {}
    return {"$schema": _DRAFT, "type": "object", "properties": {**properties}, **required}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _strict(schema: Schema) -> Schema:
    """Return a schema whose objects have no other fields."""
    found = {**schema}
    if "items" in schema:
        found["items"] = _strict(schema["items"])
    if "properties" in schema:
        inner = {name: _strict(each) for name, each in schema["properties"].items()}
        found |= {"properties": inner, "additionalProperties": False}
    return found


def _text(description: str = "") -> Schema:
    return {"type": "string", **({"description": description} if description else {})}


def _list(items: Schema, description: str = "") -> Schema:
    return {**_text(description), "type": "array", "items": items}


_DRAFT = "http://json-schema.org/draft-07/schema#"
_AN_ENTITY = _object(
    name=_text("The name of the entity"),
    entityType=_text("The type of the entity"),
    observations=_list(_text(), "An array of observation contents associated with the entity"),
)
_A_RELATION = _object(
    **{
        "from": _text("The name of the entity where the relation starts"),
        "to": _text("The name of the entity where the relation ends"),
        "relationType": _text("The type of the relation"),
    }
)
_NODES = {"entities": _list(_AN_ENTITY), "relations": _list(_A_RELATION)}
_DONE: dict[str, Schema] = {"success": {"type": "boolean"}, "message": _text()}


def _tool(
    name: str,
    title: str,
    description: str,
    output: dict[str, Schema],
    properties: dict[str, Schema],
) -> _MemoryTool:
    return _MemoryTool(
        name,
        title,
        description,
        properties,
        tuple(properties),
        (),
        reads=output is _NODES,
        destroys=output is _DONE,
        repeatable=output is _DONE,
        output=output,
    )


_TOOLS = (
    _tool(
        "create_entities",
        "Create Entities",
        "Create multiple new entities in the knowledge graph",
        {"entities": _list(_AN_ENTITY)},
        {"entities": _list(_AN_ENTITY)},
    ),
    _tool(
        "create_relations",
        "Create Relations",
        "Create multiple new relations between entities in the knowledge graph. Relations should "
        "be in active voice",
        {"relations": _list(_A_RELATION)},
        {"relations": _list(_A_RELATION)},
    ),
    _tool(
        "add_observations",
        "Add Observations",
        "Add new observations to existing entities in the knowledge graph",
        {"results": _list(_object(entityName=_text(), addedObservations=_list(_text())))},
        {
            "observations": _list(
                _object(
                    entityName=_text("The name of the entity to add the observations to"),
                    contents=_list(_text(), "An array of observation contents to add"),
                )
            )
        },
    ),
    _tool(
        "delete_entities",
        "Delete Entities",
        "Delete multiple entities and their associated relations from the knowledge graph",
        _DONE,
        {"entityNames": _list(_text(), "An array of entity names to delete")},
    ),
    _tool(
        "delete_observations",
        "Delete Observations",
        "Delete specific observations from entities in the knowledge graph",
        _DONE,
        {
            "deletions": _list(
                _object(
                    entityName=_text("The name of the entity containing the observations"),
                    observations=_list(_text(), "An array of observations to delete"),
                )
            )
        },
    ),
    _tool(
        "delete_relations",
        "Delete Relations",
        "Delete multiple relations from the knowledge graph",
        _DONE,
        {"relations": _list(_A_RELATION, "An array of relations to delete")},
    ),
    _tool("read_graph", "Read Graph", "Read the entire knowledge graph", _NODES, {}),
    _tool(
        "search_nodes",
        "Search Nodes",
        "Search for nodes in the knowledge graph based on a query",
        _NODES,
        {
            "query": _text(
                "The search query to match against entity names, types, and observation content"
            )
        },
    ),
    _tool(
        "open_nodes",
        "Open Nodes",
        "Open specific nodes in the knowledge graph by their names",
        _NODES,
        {"names": _list(_text(), "An array of entity names to retrieve")},
    ),
)
# Of these the text of an answer is the list alone, as the reference server has it.
_LISTS = {"create_entities": "entities", "create_relations": "relations"}
_LISTS |= {"add_observations": "results"}


class GraphResource:
    """The whole graph, as the one resource of the reference server."""

    @property
    def templates(self) -> list[types.ResourceTemplate]:
        """There are none."""
        return []

    async def page(self, agent: Agent, cursor: str | None) -> types.ListResourcesResult:
        """Return the one resource."""
        graph = types.Resource(
            name="knowledge-graph",
            title="Knowledge Graph",
            uri=_URI,
            description="The full knowledge graph with all entities and relations",
            mime_type="application/json",
        )
        return types.ListResourcesResult(resources=[graph])

    async def read(self, agent: Agent, uri: str) -> str | None:
        """Return the graph as JSON text."""
        return _json(await read_graph(agent.space, {})) if uri == _URI else None

    def events(self, entry: Entry) -> Sequence[ServerEvent]:
        """Return that the graph has changed, if it has."""
        return [ResourceUpdated(_URI)] if entry.key.startswith(GRAPH) else []


class MemoryHandlers(Handlers):
    """The profile of the reference memory server."""

    NAME = "memory-server"
    TITLE = "Interlock: a shared knowledge graph"
    INSTRUCTIONS = None
    TOOLS: ClassVar[Mapping[str, Tool]] = {tool.name: tool for tool in _TOOLS}

    @cached_property
    def resources(self) -> Resources:
        """The graph."""
        return GraphResource()

    async def call_tool(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Call a tool; what is wrong is an answer, as the reference server has it."""
        if params.name not in self.TOOLS:
            return _error(f"MCP error -32602: Tool {params.name:.80} not found")
        return await super().call_tool(ctx, params)

    async def answered(
        self, agent: Agent, tool: Tool, arguments: dict[str, Json]
    ) -> types.CallToolResult:
        """Return what a tool answers.  Raises Refusal, a refusal or a fault."""
        answer = await CALLS[tool.name](agent.space, arguments)
        if tool.destroys:
            text = answer["message"]
        else:
            text = _json(answer[_LISTS[tool.name]] if tool.name in _LISTS else answer)
        return types.CallToolResult(
            content=[types.TextContent(text=text)], structured_content=answer
        )

    def refused(self, refusal: Answer) -> types.CallToolResult:
        """Return a refusal as the text of an error."""
        if refusal["kind"] == "NotFound":
            return _error(refusal["message"])
        return _error(f"{refusal['kind']}: {refusal['message']}\n{refusal['next_step']}")


def _error(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


def _json(answer: Json) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)
