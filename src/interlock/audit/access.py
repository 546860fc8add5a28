"""Calls: which read a store, which write one, which make what lies between them safe."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from interlock.audit.arguments import (
    NO_NOUNS,
    compared,
    complete,
    document,
    is_default,
)
from interlock.audit.expression import (
    APPENDING,
    KEPT_MARKS,
    MODEL_CALLS,
    MUTATING,
    SAME_THING,
    SLOW_CALLS,
    UNIQUE_CALLS,
    dotted_name,
    weak,
)
from interlock.audit.keys import VECTOR_WRITES, vector_ids
from interlock.audit.named import Named
from interlock.audit.project import ClassInfo, FunctionInfo, last_name, unwrapped
from interlock.audit.stores import Call, Store
from interlock.audit.value import NOTHING, Flow, Spot, Value

_LOAD = re.compile(r"^_?(?:a)?(?:load|read|fetch)_(\w*)$")
_SAVE = re.compile(r"^_?(?:a)?(?:save|write|store|persist|dump|put|update)_(\w*)$")
MOST_DEPTH = 4


class Accesses(Named):
    """Evaluates calls."""

    catching: list[str]
    budget: int
    depth: int

    def call(self, node: ast.Call) -> Value:
        """Return what is known of a call's value; note its reads and writes."""
        inner = unwrapped(node)
        if inner is not None:
            return self.call(inner)
        function = node.func
        base = self.eval(function.value) if isinstance(function, ast.Attribute) else None
        name = last_name(function)
        positional = [self.eval(each) for each in node.args]
        named = {each.arg or "**": self.eval(each.value) for each in node.keywords}
        self._note_waits(dotted_name(function))
        if name in VECTOR_WRITES and base is not None:
            names = " ".join(self.names_of(node.func, base)).lower()
            ids = vector_ids(name, names, positional, named)
            if ids is not None:
                self.fixed_id(node, ids, base.text)
        handlers: tuple[Callable[..., Value | None], ...] = (
            self.guard_call,
            self.file_call,
            self.sql_call,
            self.model_call,
            self._store_call,
            self._project_call,
            self._generic_call,
            self._pair_call,
        )
        for handler in handlers:
            value = handler(node, name, base, positional, named)
            if value is not None:
                return value
        return self._other_call(node, name, base, positional, named)

    def _note_waits(self, dotted: str) -> None:
        if MODEL_CALLS.search(dotted) or SLOW_CALLS.search(dotted):
            self.state.slow += 1

    # Stores of the table.

    def names_of(self, node: ast.expr, value: Value) -> tuple[str, ...]:
        """Return the names by which a receiver may be recognised, the best first."""
        names: list[str] = []
        if isinstance(value.about, ClassInfo):
            names.append(value.about.name)
        elif isinstance(value.about, tuple):
            names.extend(str(each) for each in value.about)
        own = last_name(node) or dotted_name(node).split(".")[-1]
        if own:
            names.append(own)
        short = re.sub(r"\([^()]*\)", "", re.sub(r"\([^()]*\)", "", value.text))
        parts = list(re.findall(r"[A-Za-z_]\w*", short.split("[")[0]))
        if "(" in value.text and not value.text.startswith(("f'", 'f"', "(")):
            names.extend(reversed(parts))
        elif parts:
            names.append(parts[-1])
        return tuple(dict.fromkeys(names))

    def _store_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        if base is None or not isinstance(node.func, ast.Attribute):
            return None
        method, receiver = name, node.func.value
        if (
            isinstance(receiver, ast.Call)
            and isinstance(receiver.func, ast.Attribute)
            and receiver.func.attr in {"json", "hash", "document"}
            and not receiver.args
        ):
            method = f"{receiver.func.attr}().{name}"
            receiver = receiver.func.value
            base = self.eval(receiver)
        store = self.stores.by_name.get(base.kind)
        if store is None and not base.flows and base.kind in ("", "class"):
            names = self.names_of(receiver, base)
            store = self.stores.recognise(names, self.module.imported, method)
            if (
                store is not None
                and not store.generic
                and not complete(store.call(method), positional, named)
            ):
                store = None
        if store is None or store.generic or store.only:
            return None
        if isinstance(base.about, ClassInfo) and base.kind == "":
            own = self.project.method(base.about, name)
            if own is not None and not own.is_stub:
                return None
        if method in store.same:
            return Value(
                base.text, kind=store.name, holder=base.holder or base.text, marks=base.marks
            )
        call = store.call(method)
        if call is None:
            return None
        return self._access(node, store, call, base, positional, named)

    def _access(
        self,
        node: ast.Call,
        store: Store,
        call: Call,
        base: Value,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value:
        keys: list[str] = []
        fields: set[str] = set()
        flows: set[Flow] = set()
        marks: set[str] = set()
        guard = ""
        written = ""
        where: list[tuple[str, Value]] = []
        key_flows: frozenset[Flow] = NOTHING
        taken: set[str] = set()
        for parameter in call.parameters:
            value = named.get(parameter.keyword)
            if value is None and parameter.role != "guard" and parameter.position < len(positional):
                value = positional[parameter.position]
            if value is None or parameter.keyword in taken:
                continue
            if parameter.role == "key":
                keys.append(value.text)
                key_flows |= value.flows
                if value.kind == "dict":
                    where.extend(value.parts)
            elif parameter.role == "field" and value.text not in ("None", "'$'", "'.'"):
                fields.add(value.const if value.const is not None else value.text)
            elif parameter.role == "value":
                flows |= value.flows
                marks |= value.marks | ({"default"} if is_default(value) else set())
                written = value.text
                if (
                    value.kind == "dict"
                    and not value.part("**")
                    and store.name == "redis"
                    and call.method == "hset"
                ):
                    fields |= {key for key, _ in value.parts}
            elif parameter.role == "doc":
                doc_flows, doc_fields, doc_marks = document(value)
                flows |= doc_flows
                fields |= doc_fields
                marks |= doc_marks
            elif parameter.role == "guard" and value.text not in ("None", "False"):
                guard = parameter.keyword
        spot = Spot(store.name, base.holder or base.text, ", ".join(keys), frozenset(fields))
        text = f"{base.text}.{call.method}({', '.join(each.text for each in positional)})"
        if call.action in ("read", "test"):
            safe = "WATCH" if self.state.watched & {*keys, "*"} else ""
            read = self.read(
                spot, call.method, node, test=call.action == "test", safe=safe, where=tuple(where)
            )
            return Value(text[:300], frozenset({Flow(read, "=")}))
        if call.action in ("write", "delete", "insert"):
            if self.state.watched & {*keys, "*"}:
                guard = guard or "WATCH"
            if store.name == "mongo":
                guard = guard or compared(where, fields)
            self.write(
                spot,
                call.method,
                node,
                frozenset(flows),
                guard=guard,
                marks=frozenset(marks),
                kind=call.action,
                where=tuple(where),
                value=written,
                key_flows=key_flows,
            )
        return Value(text[:300], kind="")

    # Stores of which only the name is known.

    def _generic_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        if base is None or not isinstance(node.func, ast.Attribute) or base.kind or base.flows:
            return None
        names = self.names_of(node.func.value, base)
        store = self.stores.recognise(names, self.module.imported, name, generic=True)
        if store is None:
            return None
        call = store.call(name)
        if call is None:
            return None
        arguments = tuple(each.text for each in [*positional, *named.values()])
        guard = next(
            (key for key in named if key in store.guards and named[key].text != "None"), ""
        )
        return self.by_name(
            node, store.name, base.text, call.action, name, arguments, positional, named, guard
        )

    def _pair_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        """`load_x()` and `save_x(x)` of which the bodies are not among the files."""
        if base is not None and not (
            isinstance(node.func, ast.Attribute) and last_name(node.func.value) == "self"
        ):
            return None
        load, save = _LOAD.match(name), _SAVE.match(name)
        noun = (load or save or ("", ""))[1]
        if not noun or noun in NO_NOUNS or noun.startswith(("from_", "by_", "or_", "default")):
            return None
        if name in self.state.env or self._resolve(node, name, base) is not None:
            return None
        arguments = tuple(each.text for each in [*positional, *named.values()])
        action = "read" if load and (not save or not positional) else "write"
        guard = next(
            (key for key in named if re.search(r"version|etag|expected|revision", key)), ""
        )
        return self.by_name(
            node, "function", noun, action, name, arguments, positional, named, guard
        )

    # Functions of the project.

    def _resolve(
        self, node: ast.Call, name: str, base: Value | None
    ) -> FunctionInfo | ClassInfo | None:
        if base is None:
            value = self.state.env.get(name)
            if value is None and isinstance(node.func, ast.Name):
                value = self.global_value(name, self.module)
            about = value.about if value is not None else None
            return about if isinstance(about, FunctionInfo | ClassInfo) else None
        if isinstance(base.about, ClassInfo) and base.kind != "model":
            return self.project.method(base.about, name)
        if isinstance(node.func, ast.Attribute):
            receiver = node.func.value
            if (
                isinstance(receiver, ast.Call)
                and last_name(receiver.func) == "super"
                and self.function.cls
            ):
                for parent in self.function.cls.bases:
                    cls = self.project.class_named(parent, self.module)
                    if cls is not None:
                        return self.project.method(cls, name)
            if isinstance(receiver, ast.Name) and receiver.id in self.module.imports:
                target = self.module.imports[receiver.id]
                for module in self.project.modules:
                    if module.name == target or (
                        module.name.endswith(f".{target}") and name in module.functions
                    ):
                        return module.functions.get(name)
        return None

    def _project_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        target = self._resolve(node, name, base)
        if isinstance(target, ClassInfo):
            text = f"{name}({', '.join(each.text for each in [*positional, *named.values()])})"
            flows = frozenset().union(
                *(weak(each.flows) for each in [*positional, *named.values()])
            )
            kind = "new" if target.is_model else ""
            return Value(
                text[:300],
                flows,
                kind=kind,
                about=target if not flows else None,
                holder=target.name,
                parts=tuple(named.items()),
            )
        if target is None:
            return None
        pair = self.get_and_set(node, name, target, positional, named)
        if pair is not None:
            return pair
        self.managed_write(node, name, base, positional, named)
        return self.managed_read(
            node,
            name,
            base,
            positional,
            named,
            self._followed(node, name, base, target, positional, named),
        )

    def _followed(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        target: FunctionInfo,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        self.calls.append((target, self.state.held, self.function))
        if target.is_stub and isinstance(base, Value) and isinstance(base.about, ClassInfo):
            names = (
                self.names_of(node.func.value, base) if isinstance(node.func, ast.Attribute) else ()
            )
            known = self.stores.recognise(names, self.module.imported, name, generic=True)
            if known is None or base.text == "self":
                target = self.project.implementation(base.about, name) or target
        if target.is_stub or not self.relevant(target):
            return None
        if self.depth >= MOST_DEPTH or self.budget <= 0 or target in self.running:
            return None
        return self.inline(target, node, base, positional, named)

    def property_value(self, node: ast.Attribute, base: Value) -> Value | None:
        """Return what a property returns, if it touches a store."""
        if not isinstance(base.about, ClassInfo):
            return None
        target = self.project.method(base.about, node.attr)
        if (
            target is None
            or not target.is_property
            or not self.relevant(target)
            or target in self.running
        ):
            return None
        if self.depth >= MOST_DEPTH or self.budget <= 0:
            return None
        return self.inline(target, node, base, [], {})

    # Everything else.

    def _other_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value:
        values = [*positional, *named.values()]
        same = bool(SAME_THING.match(name)) or name.endswith(("loads", "dumps"))
        flows: frozenset[Flow] = (
            frozenset().union(*(each.flows for each in values)) if values else frozenset()
        )
        marks: set[str] = set()
        for each in values:
            marks |= each.marks & KEPT_MARKS
        if base is not None:
            flows |= base.flows
            marks |= base.marks & KEPT_MARKS
        dotted = dotted_name(node.func)
        if not same and name not in ("get", "pop"):
            flows = weak(flows)
            marks.add("computed")
        elif base is not None and name in ("get", "pop") and positional:
            key = positional[0].const or positional[0].text
            flows = frozenset(
                Flow(f.read, key if f.part in ("", "=") else f.part) for f in base.flows
            )
            flows |= frozenset().union(*(weak(each.flows) for each in positional[1:]))
        if MODEL_CALLS.search(dotted):
            marks.add("model")
        if UNIQUE_CALLS.search(dotted):
            marks.add("unique")
        if name in ("enumerate", "range"):
            marks.add("index")
        if base is not None and name in MUTATING and isinstance(node.func, ast.Attribute):
            self.mutate(
                node.func.value, values, "appended" if name in APPENDING else "changed", node
            )
        head = f"{base.text}.{name}" if base is not None else name
        if (
            name in ("Path", "str", "fspath", "PurePath", "cast")
            and len(positional) == 1
            and base is None
        ):
            return Value(
                positional[0].text, flows, const=positional[0].const, marks=frozenset(marks)
            )
        text = f"{head}({', '.join(each.text for each in values)})"[:300]
        if "unique" in marks and UNIQUE_CALLS.search(dotted):
            text += f"@{node.lineno}"
        const = None
        if name in ("text", "SQL", "dedent", "strip", "format", "sql"):
            source = (
                base if name in ("strip", "format") else (positional[0] if positional else None)
            )
            const = source.const if source is not None else None
        parts = base.parts if base is not None and same else ()
        if name in ("PointStruct", "Vector", "Record", "models.PointStruct") and "id" in named:
            parts = tuple(named.items())
        if (same and len(values) == 1 and base is None) or (same and len(positional) == 1):
            parts = parts or positional[0].parts if positional else parts
        keeps = base.kind if base is not None and base.kind in ("row", "query") and same else ""
        if same and not keeps and positional and positional[0].kind == "row":
            keeps = "row"
        return Value(
            text,
            flows,
            keeps,
            const=const,
            marks=frozenset(marks),
            parts=parts,
            holder=base.holder if keeps and base is not None else "",
        )

    def mutate(self, target: ast.expr, values: list[Value], how: str, node: ast.AST) -> None:
        """Note that what stands under a name was changed in place."""
        self._row_inside(target, values, how)
        root: ast.expr = target
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name):
                break
        name = root.id if isinstance(root, ast.Name) else ""
        flows = frozenset().union(*(weak(each.flows) for each in values)) if values else frozenset()
        marks = (
            frozenset().union(*(each.marks & {"model", "unique"} for each in values))
            if values
            else frozenset()
        )
        if name in self.state.env and name != "self":
            old = self.state.env[name]
            self.state.env[name] = Value(
                old.text,
                old.flows | flows,
                old.kind,
                old.holder,
                old.const,
                old.marks | marks | {how},
                (),
                old.about,
            )
        else:
            dotted = dotted_name(target)
            held = self.state.heap.get(dotted)
            if held is not None:
                self.state.heap[dotted] = Value(
                    held.text,
                    held.flows | flows,
                    held.kind,
                    held.holder,
                    held.const,
                    held.marks | marks | {how},
                    (),
                    held.about,
                )

    def _row_inside(self, target: ast.expr, values: list[Value], how: str) -> None:
        """Tell the mapper if what is changed hangs on a mapped object."""
        while isinstance(target, ast.Attribute | ast.Subscript):
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
                base = self.eval(target.value)
                if base.kind == "row":
                    self.row_changed(target, base, values, how)
            target = target.value
