"""MCP on the port of the service: the same tokens, the same spaces."""

from __future__ import annotations

from pathlib import Path

import interlock
from interlock.server.http.identity import SERVICE_SPACE, create_token
from tests.server.mcp_clients import over_http, using
from tests.servers.service import Service


async def test_tools_write_as_the_agent_of_the_token(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}", SERVICE_SPACE) as tokens:
        planner, _ = create_token(tokens, "planner", role="writer")
        reader, _ = create_token(tokens, "reader", role="reader")
        some, _ = create_token(tokens, "some", keys=["a/*"])
        admin, _ = create_token(tokens, "admin", role="admin")
    with Service.start(tmp_path, "--tokens") as service:
        space = service.space("travel", admin)
        url = f"{service.url()}{space.root}/mcp"
        async with using(over_http(url, planner)) as tools:
            made = await tools.done("create", key="plan.md", value="draft")
            assert made["record"]["writer"] == "planner"
        async with using(over_http(url, reader)) as tools:
            assert (await tools.record("plan.md"))["value"] == "draft"
            await tools.refused("Forbidden", "create", key="k", value=1)
        assert space.ask("GET", "records/plan.md").json["writer"] == "planner"
        assert space.under(some).ask("POST", "mcp", {}).status == 403
        assert space.under("wrong").ask("POST", "mcp", {}).status == 401
        assert service.ask("POST", "/v1/spaces/none/mcp", {}, admin).status == 404
