"""The adapters to agent frameworks, on every kind of store."""
