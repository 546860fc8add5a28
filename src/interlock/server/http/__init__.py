"""The HTTP service: spaces as resources, with identity, and MCP beside them."""
