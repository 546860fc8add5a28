"""The MCP server: tools over one space, for any client of the protocol."""
