"""Values of an annotated type to try a reducer with: the same ones for the same seed."""

from __future__ import annotations

import dataclasses
import enum
import random
import types
import typing
from collections.abc import Callable
from typing import Any

_SIMPLE: dict[Any, Callable[[random.Random], Any]] = {
    bool: lambda chance: chance.random() < 0.5,
    int: lambda chance: chance.randint(-9, 9),
    float: lambda chance: chance.randint(-36, 36) / 4,  # sums of quarters are exact
    str: lambda chance: "".join(chance.choices("abc", k=chance.randint(0, 3))),
    bytes: lambda chance: bytes(chance.choices(b"abc", k=chance.randint(0, 3))),
    type(None): lambda chance: None,
    Any: lambda chance: chance.choice((chance.randint(-9, 9), chance.choice("abc"))),
}
_MOST = 3  # items of a sample
_DEEPEST = 4


class Unknown(Exception):
    """A type that there are no samples of."""


def sample(hint: Any, chance: random.Random, depth: int = 0) -> Any:
    """Return a value of an annotated type.  Raises Unknown."""
    hint = _bare(hint)
    if hint in _SIMPLE:
        return _SIMPLE[hint](chance)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return chance.choice(arguments)
    if origin in (typing.Union, types.UnionType):
        return sample(chance.choice(arguments), chance, depth)
    if not isinstance(origin, type) or depth > _DEEPEST:
        raise Unknown(hint)
    size = chance.randint(0, _MOST)
    if issubclass(origin, dict) and not typing.is_typeddict(hint):
        keys, values = arguments or (str, int)
        return {
            sample(keys, chance, depth + 1): sample(values, chance, depth + 1) for _ in range(size)
        }
    if issubclass(origin, list | set | frozenset):
        (items,) = arguments or (str,)
        return origin(sample(items, chance, depth + 1) for _ in range(size))
    if issubclass(origin, tuple):
        if not arguments or arguments[-1] is Ellipsis:
            return tuple(sample((arguments or (str,))[0], chance, depth + 1) for _ in range(size))
        return tuple(sample(each, chance, depth + 1) for each in arguments)
    return _structured(origin, chance, depth + 1)


def _structured(kind: type, chance: random.Random, depth: int) -> Any:
    """Return a value of a type that names its fields."""
    if issubclass(kind, enum.Enum):
        return chance.choice(list(kind))
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return {name: sample(hint, chance, depth) for name, hint in hints.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = [each.name for each in dataclasses.fields(kind) if each.init]
        return kind(**{name: sample(hints[name], chance, depth) for name in fields})
    raise Unknown(kind)


def _bare(hint: Any) -> Any:
    """Return a type without what is said about it."""
    while typing.get_origin(hint) in (typing.Annotated, typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    return hint
