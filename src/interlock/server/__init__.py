"""Servers over the API, for programs that are not written in Python.  Imported when used."""

from typing import TYPE_CHECKING

from interlock.extras import needs

if TYPE_CHECKING:
    from interlock.server.http.app import app
    from interlock.server.http.service import Bounds

__all__ = ["Bounds", "app"]


def __getattr__(name: str) -> object:
    """Import `app` and `Bounds` when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'interlock.server' has no attribute {name!r}")
    with needs("The HTTP service", "server"):
        from interlock.server.http import app, service
    return app.app if name == "app" else service.Bounds
