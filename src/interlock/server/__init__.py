"""Servers over the API, for programs that are not written in Python.  Imported when used."""

from interlock.extras import needs


def __getattr__(name: str) -> object:
    """Import `app` and `Bounds` when they are first used."""
    if name not in ("app", "Bounds"):
        raise AttributeError(f"module 'interlock.server' has no attribute {name!r}")
    with needs("The HTTP service", "server"):
        from interlock.server.http.app import app
        from interlock.server.http.service import Bounds
    return app if name == "app" else Bounds
