"""What plain data is: JSON values, and the base of requests and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, dataclass_transform

Json = Any
"""A value as JSON has it, of whatever shape its writer gave it: for annotations."""


def plain(value: object, *, ordered: bool = False) -> Json:
    """Return what msgspec makes of an object: dicts, lists, texts, numbers.

    `ordered`: the same object always becomes the same.  Raises TypeError and others of msgspec.
    """
    import msgspec

    order: Literal["deterministic"] | None = "deterministic" if ordered else None
    return msgspec.to_builtins(value, str_keys=True, order=order, enc_hook=_model_to_json)


def is_result(value: object) -> bool:
    """Whether something is what a call of this library returned, such as a Record: no value."""
    form = type(value)
    return hasattr(form, "_fields") and form.__module__.startswith("interlock.")


def is_model(form: object) -> bool:
    """Whether a class is a pydantic model."""
    return (
        isinstance(form, type)
        and hasattr(form, "__pydantic_fields__")
        and hasattr(form, "model_validate")
    )


def _model_to_json(value: Any) -> Json:
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
    raise TypeError(f"a {type(value).__name__} is not JSON")


@dataclass_transform(eq_default=False, frozen_default=True)
class Struct:
    """Each subclass is a dataclass of its fields.

    It is declared and made faster than a frozen dataclass or a named tuple, because nothing stops
    a change of it but the type checker.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(eq=False, repr=False)(cls)

    def replace(self, **changes: object) -> Self:
        """Return the same with other values of some fields."""
        return type(self)(**{**vars(self), **changes})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"
