"""Store URLs without what is secret in them: the only way in which a URL gets into a message.

It must hold for URLs that nobody understands, too: a password with an unescaped `/`, `@` or `?` is
where most of them come from.
"""

from __future__ import annotations

import re

from interlock.errors import Invalid

HIDDEN = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]*\]?|[\w.\-%]*)(:\d*)?(,[\w.\-%]*(:\d*)?)*(/.*)?")
_FILE = re.compile(r"[\w.\-/\\ ]*")


def redact_url(url: object) -> str:
    """Return a URL as messages may show it: its scheme, and the place where that is clear."""
    if not isinstance(url, str):
        return f"<{type(url).__name__}>"
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return url if _FILE.fullmatch(url) else HIDDEN
    if scheme == "sqlite" and rest.startswith("/"):
        return url  # a file: no user, no password
    head, options, query = rest.partition("?")
    secret, at, place = head.rpartition("@")
    if "@" in query or "#" in rest or not _PLACE.fullmatch(place):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{HIDDEN + at if secret else ''}{place}{'?...' if options else ''}"


def malformed(url: object, why: str) -> Invalid:
    """Return the refusal of a URL that cannot be read.

    `why` must not quote the error of a library that parsed it: those quote the URL.
    """
    return Invalid(f"the URL {redact_url(url)} is malformed: {why}")


def check_server_url(url: str) -> None:
    """Raise Invalid where it is unclear where the user and password end.

    Libraries disagree on such a URL, and take a part of the password for a host or a port.
    """
    head = url.partition("://")[2].partition("?")[0]
    authority, _, path = head.partition("/")
    if "@" in path or "@" in url.partition("?")[2] or "#" in url or authority.count("@") > 1:
        raise malformed(
            url,
            "percent-encode special characters in the user and password "
            "('@' is %40, '/' %2F, '?' %3F, '#' %23)",
        )


class Hidden:
    """A mixin: the object is shown by its `place`, never with what it connects by."""

    place: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"
