"""Servers over the API, for programs that are not written in Python.  Imported when used."""

from typing import TYPE_CHECKING

from interlock.extras import later, needs

if TYPE_CHECKING:
    from interlock.server.http.app import app
    from interlock.server.http.issuer import Issuer
    from interlock.server.http.service import Bounds

_HOMES = {"app": "app", "issuer": "Issuer", "service": "Bounds"}
__all__ = ["Bounds", "Issuer", "app"]
_imported = later("interlock.server.http", _HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs("The HTTP service", "server"):
        return _imported(name)
