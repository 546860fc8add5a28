"""How values of checkpoints are decoded: nothing is imported or called that was not allowed.

LangGraph's serializer imports whatever a stored value names and calls it, and whoever can write to
the store can name `os.system`.  Here it makes plain data, LangChain's messages and LangGraph's own
types, and otherwise only the types that the user of the saver lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Literal

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from interlock import Invalid

Allowed = Iterable[type | tuple[str, ...]] | Literal[True]
_KINDS = ("null", "bytes", "bytearray", "msgpack")  # "json" and "pickle" are never written

_blocked: ContextVar[list[tuple[str, str]] | None] = ContextVar("interlock_blocked", default=None)


def _note(event: SerdeEvent) -> None:
    found = _blocked.get()
    if found is not None and event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        found.append((event["module"], event["name"]))


register_serde_event_listener(_note)


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer with an allow-list: a type that is not on it raises Invalid.

    LangGraph's own strict mode returns the type's data in its place, which graphs then go on with.
    """

    def __init__(self, allow: Iterable[type | tuple[str, ...]] = ()) -> None:
        self.allow = frozenset(map(_name, allow))
        super().__init__(allowed_msgpack_modules=[*self.allow] or None)

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        """Return the value.  Raises Invalid."""
        if data[0] not in _KINDS:
            raise Invalid(
                f"A checkpoint has a value of kind {data[0]!r:.40}, which is never decoded."
            )
        found: list[tuple[str, str]] = []
        token = _blocked.set(found)
        try:
            value = super().loads_typed(data)
        finally:
            _blocked.reset(token)
        if found:
            names = ", ".join(repr(each) for each in dict.fromkeys(found))
            raise Invalid(
                f"A checkpoint has types that are not allowed: {names:.400}. "
                "If they are yours, name them: Saver(space, allow=[YourType, ...])"
            )
        return value

    def with_msgpack_allowlist(
        self, extra_allowlist: Iterable[tuple[str, ...] | type]
    ) -> StrictSerializer:
        """Return one that allows these types, too; LangGraph asks for those of a graph's state."""
        return StrictSerializer({*self.allow, *map(_name, extra_allowlist)})


def strict(serde: SerializerProtocol | None, allow: Allowed) -> SerializerProtocol:
    """Return a serializer as strict as it can be made; `allow=True` returns it as it is.

    Raises Invalid if it unpickles.
    """
    if allow is True:
        return JsonPlusSerializer(allowed_msgpack_modules=True) if serde is None else serde
    names = frozenset(map(_name, allow))
    if isinstance(serde, EncryptedSerializer):  # it also decodes what is not encrypted
        return EncryptedSerializer(serde.cipher, strict(serde.serde, names))
    if isinstance(serde, JsonPlusSerializer) and serde.pickle_fallback:
        raise Invalid(
            "pickle_fallback lets whoever can write to the store run code here. "
            "Remove it, or pass allow=True if you trust all of them"
        )
    if serde is None or type(serde) is JsonPlusSerializer:
        listed = getattr(serde, "_allowed_msgpack_modules", None)
        return StrictSerializer({*names, *(listed if isinstance(listed, set) else ())})
    return serde.with_msgpack_allowlist(names) if isinstance(serde, StrictSerializer) else serde


def _name(allowed: type | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(allowed, type):
        return allowed.__module__, allowed.__name__
    if isinstance(allowed, tuple) and [type(part) for part in allowed] == [str, str]:
        return allowed
    raise Invalid(f"allow={allowed!r:.60} must be a class or a pair (module, name).")
