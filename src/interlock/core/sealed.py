"""What an encrypted value is to those who cannot decrypt it: JSON text that says so.

Drivers encrypt and decrypt (`backends/seal.py`); stores, exports and copies keep and carry the
text as any other.
"""

from __future__ import annotations

from interlock.core.refusals import Invalid
from interlock.core.struct import Json

MARK = "$cipher"
BEGINNING = f'{{"{MARK}":"'  # of the text of an encrypted value, up to its base64
# Of the library's own records, those that hold what programs gave; the others are about positions,
# and whoever trims, erases or looks after a space has to read them.
_OWN = ("$run/", "$runs/", "$breaker/")


def is_secret(key: str) -> bool:
    """Whether values of a key are encrypted where there is a cipher."""
    return not key.startswith("$") or key.startswith(_OWN)


def is_sealed(value: Json) -> bool:
    """Whether a value, as JSON text has it, is an encrypted one."""
    return type(value) is dict and len(value) == 1 and type(value.get(MARK)) is str


def no_cipher(key: str) -> Invalid:
    """The refusal of reading an encrypted value without its cipher."""
    return Invalid(f"The value of {key!r} is encrypted. Open the space with its cipher=.", key)
