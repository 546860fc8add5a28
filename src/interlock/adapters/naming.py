"""Names that users choose, such as a session's, as one segment of a key."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

_LONGEST = 256  # characters of a name as it is; a whole key may have 512 bytes


def quoted(name: str) -> str:
    """Return `name` as a segment of a key: any text, and two names never share one.

    A long name is cut, and told apart by its SHA-256.
    """
    text = quote(name, safe="", errors="surrogatepass").replace(".", "%2E") or "%"
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{text[: _LONGEST - len(digest) - 1]}~{digest}"
