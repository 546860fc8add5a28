"""A pattern made of a function of the user's own, which the simulation puts to the test.

The function is called once for each contribution, by its parameters' names: `space` (an
`interlock.Space`; an AsyncSpace for a coroutine function), `key`, `item` (a text that is to be in
some value of the space afterwards) and `think` (`think(items)` takes as long as the settings say
and returns the items with `item` added).  When it returns, its write counts as acknowledged.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import interlock
from interlock.errors import Invalid
from interlock.verify.simulate.patterns import Agent, InterlockPattern, Think

_PARAMETERS = ("space", "key", "item", "think")
_ITEM = re.compile(r"[0-9a-f]{8}/agent-\d+/\d+")


class UserFunction(InterlockPattern):
    """The function that `module:function` names, on a space named like it.

    Raises Invalid if there is no such function, or if it takes other arguments.
    """

    def __init__(self, named: str) -> None:
        self.named = named
        self.name = named.rpartition(":")[2].rpartition(".")[2]
        self.about = f"your own function, {named}"
        _parameters(named, _function(named))

    def connect(self, store: str, agent: str) -> Agent:
        function = _function(self.named)
        made = _AsyncAgent if inspect.iscoroutinefunction(function) else _Agent
        return made(function, _parameters(self.named, function), (store, self.name, agent))

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        with interlock.open(store, space=self.name) as space:
            texts = [json.dumps(record.value) for record in space.scan().values()]
        return {item for text in texts for item in _ITEM.findall(text)}


class _Agent:
    def __init__(
        self, function: Callable[..., object], wanted: set[str], place: tuple[str, str, str]
    ) -> None:
        self._function, self._wanted = function, wanted
        self._space = interlock.open(*place)

    def contribute(self, key: str, think: Think) -> None:
        self._function(**_arguments(self._wanted, self._space, key, think))

    def close(self) -> None:
        self._space.close()


class _AsyncAgent:
    def __init__(
        self,
        function: Callable[..., Coroutine[object, None, object]],
        wanted: set[str],
        place: tuple[str, str, str],
    ) -> None:
        async def opened() -> interlock.AsyncSpace:
            return await interlock.open_async(*place)

        self._function, self._wanted = function, wanted
        self._loop = asyncio.Runner()
        self._space = self._loop.run(opened())

    def contribute(self, key: str, think: Think) -> None:
        self._loop.run(self._function(**_arguments(self._wanted, self._space, key, think)))

    def close(self) -> None:
        self._loop.run(self._space.close())
        self._loop.close()


def _arguments(wanted: set[str], space: object, key: str, think: Think) -> Mapping[str, object]:
    offered = {"space": space, "key": key, "item": think.item, "think": think}
    return {name: offered[name] for name in wanted}


def _function(named: str) -> Callable[..., Any]:
    """Import what `module:function` names, from the working directory, too."""
    module, _, path = named.partition(":")
    if not module or not path:
        raise Invalid(f"{named!r} is not a function's name. Example: my_agents:book_a_seat")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as problem:
        raise Invalid(f"{named!r} cannot be imported: {problem}.") from problem
    if not callable(found):
        raise Invalid(f"{named!r} is not a function.")
    function: Callable[..., Any] = found
    return function


def _parameters(named: str, function: Callable[..., object]) -> set[str]:
    """Return which of our arguments the function takes."""
    taken = inspect.signature(function).parameters.values()
    strange = [
        each.name
        for each in taken
        if each.name not in _PARAMETERS
        and each.default is each.empty
        and each.kind < each.VAR_POSITIONAL
    ]
    wanted = {each.name for each in taken} & {*_PARAMETERS}
    if strange or not wanted & {"item", "think"}:
        what = f"has a parameter {strange[0]!r}" if strange else "takes neither item nor think"
        raise Invalid(f"{named!r} {what}. It may take {', '.join(_PARAMETERS)}, by these names.")
    return wanted
