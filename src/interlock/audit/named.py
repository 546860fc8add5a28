"""Names: what is read and written by methods of which only the name is known."""

from __future__ import annotations

import ast
import re

from interlock.audit.arguments import NO_NOUNS, is_default, managed_id, noun_of
from interlock.audit.locks import Locks
from interlock.audit.project import FunctionInfo
from interlock.audit.value import NOTHING, Flow, Spot, Value

_GETS = re.compile(r"^a?(get|load|fetch|read|retrieve)_")
_SETS = re.compile(r"^a?(set|update|save|replace|put)_")


class Named(Locks):
    """Evaluates calls by their names."""

    def by_name(
        self,
        node: ast.Call,
        store: str,
        holder: str,
        action: str,
        name: str,
        arguments: tuple[str, ...],
        positional: list[Value],
        named: dict[str, Value],
        guard: str,
    ) -> Value | None:
        """Note what a method with such a name reads or writes."""
        noun = noun_of(name)
        spot = Spot(store, holder, "")
        text = f"{holder}.{name}({', '.join(arguments)})"
        values = [*positional, *named.values()]
        if action in ("read", "test"):
            read = self.read(
                spot, name, node, test=action == "test", arguments=arguments, noun=noun
            )
            return Value(text[:300], frozenset({Flow(read, "=")}))
        if not values:
            return None
        flows = frozenset().union(*(each.flows for each in values))
        marks = frozenset().union(*(each.marks for each in values))
        keys = [
            value
            for key, value in named.items()
            if key in ("id", "key", "ids") or key.endswith("_id")
        ]
        keys = keys or (values[:1] if len(values) > 1 else [])
        key_flows = frozenset().union(*(each.flows for each in keys)) if keys else NOTHING
        rest = [each for each in values if not any(each is key for key in keys)]
        if keys:
            flows = (
                flows
                if any(f.part == "=" for f in flows)
                else frozenset().union(*(each.flows for each in rest))
                if rest
                else NOTHING
            )
        if rest and all(is_default(each) for each in rest):
            marks |= {"default"}
        self.write(
            spot,
            name,
            node,
            flows,
            guard=guard,
            marks=marks,
            arguments=arguments,
            noun=noun,
            value=values[-1].text,
            key_flows=key_flows,
        )
        return Value(text[:300])

    def get_and_set(
        self,
        node: ast.Call,
        name: str,
        target: FunctionInfo,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        """`await get_x(key)` and `await set_x(key, new)`, side by side in one module."""
        action, _, noun = name.partition("_")
        values = [*positional, *named.values()]
        if action not in ("get", "set") or not noun or noun in NO_NOUNS or not values:
            return None
        if not target.is_async or not {f"get_{noun}", f"set_{noun}"} <= set(
            target.module.functions
        ):
            return None
        computed = any(each.marks & {"arithmetic", "appended", "changed"} for each in values)
        if action == "set" and not (computed and len(values) > 1):
            return None
        arguments = tuple(each.text for each in values)
        action = "read" if action == "get" else "write"
        return self.by_name(node, "function", noun, action, name, arguments, positional, named, "")

    def managed_read(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
        value: Value | None,
    ) -> Value | None:
        """Return what a manager returns for an id, however it gets it."""
        known = managed_id(base, positional, named)
        if known is None or base is None or self.frames or not _GETS.match(name):
            return value
        if value is not None and value.flows:
            return value
        spot = Spot("function", base.text, "")
        read = self.read(spot, name, node, arguments=(known.text,))
        about = value.about if value is not None else None
        return Value(
            f"{name}({known.text})@{node.lineno}", frozenset({Flow(read, "=")}), about=about
        )

    def managed_write(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> None:
        """Note that a manager is given a new value for an id, however it keeps it."""
        known = managed_id(base, positional, named)
        if known is None or base is None or self.frames or not _SETS.match(name):
            return
        values = [each for each in (*positional, *named.values()) if each is not known]
        marks = frozenset().union(*(each.marks for each in values))
        if marks & {"arithmetic", "appended", "changed", "model"}:
            spot = Spot("function", base.text, "")
            flows = frozenset().union(*(each.flows for each in values))
            self.write(spot, name, node, flows, marks=marks, arguments=(known.text, "new"))
