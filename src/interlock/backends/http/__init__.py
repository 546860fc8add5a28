"""A space behind an Interlock service: each request is one HTTP request."""

from interlock.backends.http.backend import HTTPBackend

__all__ = ["HTTPBackend"]
