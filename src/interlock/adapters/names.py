"""Names that users choose, such as a session's, as one segment of a key."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

_LONGEST = 256  # characters of a name as it is; a whole key may have 512 bytes
_DIGEST = 40  # characters


def quoted(name: str, longest: int = _LONGEST) -> str:
    """Return `name` as a segment of a key: any text, and two names never share one.

    One of more than `longest` characters is cut, and told apart by its SHA-256.
    """
    text = quote(name, safe="", errors="surrogatepass").replace("~", "%7E") or "%"
    if text in (".", ".."):
        return text.replace(".", "%2E")
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{text[: longest - _DIGEST - 1]}~{digest}"  # no other text has a tilde
