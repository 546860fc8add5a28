"""Mapped objects: rows that are read, changed and written through SQLAlchemy, Django and the like."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace

from interlock.audit.database import Database
from interlock.audit.project import ClassInfo, FunctionInfo, last_name
from interlock.audit.sql import VERSIONS
from interlock.audit.value import NOTHING, Flow, Read, Spot, Value

_ROWS = {
    "first",
    "one",
    "one_or_none",
    "scalar",
    "scalar_one",
    "scalar_one_or_none",
    "all",
    "scalars",
    "get",
    "get_or_none",
    "last",
    "afirst",
    "alast",
    "alatest",
    "aearliest",
    "aget",
    "get_by_id",
    "find_one",
    "latest",
    "earliest",
    "fetchone",
    "fetchall",
    "first_or_404",
    "get_or_404",
}
_FILTERS = {
    "where",
    "filter",
    "filter_by",
    "options",
    "order_by",
    "limit",
    "join",
    "with_for_update",
    "select_for_update",
    "exclude",
    "select_related",
    "prefetch_related",
    "using",
    "offset",
    "outerjoin",
    "populate_existing",
    "for_update",
    "only",
    "distinct",
    "execution_options",
}
_SAVES = {"save", "asave", "save_changes", "replace", "bulk_update", "abulk_update"}
_MAKERS = {"save", "asave", "__init__", "create", "clean", "delete"}
_LOCKING = {"with_for_update", "select_for_update", "for_update", "with_lockmode"}


@dataclass(frozen=True, eq=False)
class Query:
    """A query of mapped objects while it is being built."""

    model: str
    asked: frozenset[str] = frozenset()
    locked: bool = False
    kind: str = "select"
    values: tuple[tuple[str, Value], ...] = ()
    where: tuple[tuple[str, Value], ...] = ()
    cls: ClassInfo | None = None
    explicit: bool = False  # what changes is written by `save()` only, and then whole
    columns: tuple[str, ...] = ()  # what is selected, if not all


class Mapper(Database):
    """Evaluates calls on mapped objects and their queries."""

    explicit: set[Read]  # of rows that are written by `save()` only
    unsaved: dict[str, dict[str, tuple[frozenset[Flow], frozenset[str]]]]  # by row and column

    def model_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        """Note what is read and written through an object-relational mapper."""
        if (
            name in ("select", "update", "delete", "query", "Select")
            and positional
            and self._is_model(node.args[0], positional[0])
        ):
            model = positional[0].text.split(".")[0]
            return self._query(
                Query(
                    model,
                    kind="update" if name == "update" else "select",
                    cls=_class(positional[0]),
                )
            )
        if name in ("select", "query") and node.args and isinstance(node.args[0], ast.Attribute):
            owner = node.args[0].value
            named_class = isinstance(owner, ast.Name) and owner.id not in self.state.env
            if named_class and self._is_model(owner, self.eval(owner)):
                columns = tuple(last_name(each) for each in node.args)
                return self._query(
                    Query(ast.unparse(owner), cls=_class(self.eval(owner)), columns=columns)
                )
        if name in ("get_object_or_404", "aget_object_or_404") and positional:
            locked = isinstance(positional[0].about, Query) and positional[0].about.locked
            model = (
                positional[0].about.model
                if isinstance(positional[0].about, Query)
                else positional[0].text
            )
            return self._row(Query(model, frozenset(named), locked), node, positional[1:], named)
        if base is None:
            return None
        if name in _SAVES and base.kind == "row" and base.text in self.unsaved:
            self._saved(node, base, "update_fields" in named or name == "save_changes")
            return Value("None")
        if base.kind == "query" and isinstance(base.about, Query):
            return self._on_query(node, name, base.about, positional, named)
        if (
            isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Attribute)
            and node.func.value.attr in ("objects", "query", "_default_manager")
        ):
            owner = node.func.value.value
            if self._is_model(owner, self.eval(owner)):
                return self._on_query(
                    node,
                    name,
                    Query(
                        ast.unparse(owner),
                        cls=_class(self.eval(owner)),
                        explicit=node.func.value.attr != "query",
                    ),
                    positional,
                    named,
                )
        if (
            name in ("get", "get_one", "merge")
            and positional
            and len(positional) >= 2
            and self._is_model(node.args[0], positional[0])
        ):
            locked = "with_for_update" in named and named["with_for_update"].text not in (
                "False",
                "None",
            )
            return self._row(
                Query(positional[0].text, frozenset({"id"}), locked, cls=_class(positional[0])),
                node,
                positional[1:2],
                {},
            )
        if (
            name
            in (
                "get_or_none",
                "get_by_id",
                "get",
                "select",
                "filter",
                "find_one",
                "afind",
                "get_or_404",
            )
            and isinstance(node.func, ast.Attribute)
            and self._is_model(node.func.value, base)
        ):
            cls = base.about if isinstance(base.about, ClassInfo) else None
            if cls is not None and cls.is_model and name not in cls.methods:
                return self._on_query(
                    node, name, Query(cls.name, cls=cls, explicit=True), positional, named
                )
        if (
            name in ("execute", "scalars", "scalar", "exec", "get_one")
            and positional
            and isinstance(positional[0].about, Query)
        ):
            query = positional[0].about
            if query.kind == "update":
                self._update(query, node)
                return Value("None")
            return self._row(query, node, [], {})
        if name in ("add", "add_all") and positional and positional[0].kind in ("new", "model"):
            new, cls = positional[0], _class(positional[0])
            parts = new.parts
            if new.kind == "model" and cls is not None:  # a parameter
                parts = tuple((each, Value(f"{new.text}.{each}")) for each in cls.columns)
            holder = new.holder or (cls.name if cls is not None else "")
            self.write(Spot("orm", holder, ""), "add", node, NOTHING, kind="insert", where=parts)
            return Value("None")
        if (
            name in ("refresh",)
            and positional
            and isinstance(node.args[0], ast.Name)
            and "with_for_update" in named
        ):
            read = self.read(
                Spot("orm", positional[0].holder, ""), "refresh", node, safe="FOR UPDATE"
            )
            value = positional[0]
            self.state.env[node.args[0].id] = Value(
                value.text,
                frozenset({Flow(read, "=")}),
                value.kind,
                value.holder,
                about=value.about,
            )
            return Value("None")
        return None

    def _is_model(self, node: ast.expr, value: Value) -> bool:
        if isinstance(value.about, ClassInfo) and value.kind == "class":
            return value.about.is_model or not value.about.bases or not value.about.methods
        name = last_name(node)
        return bool(re.match(r"[A-Z]\w*[a-z]", name)) and name not in ("Path", "Enum")

    def _query(self, query: Query) -> Value:
        return Value(f"query of {query.model}", kind="query", holder=query.model, about=query)

    def _on_query(
        self,
        node: ast.Call,
        name: str,
        query: Query,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        if name == "values" and query.kind == "update":
            values = tuple(named.items()) + (positional[0].parts if positional else ())
            return self._query(replace(query, kind="update", values=values))
        if name in _FILTERS:
            asked, where = self._conditions(node, positional, named)
            locked = query.locked or name in _LOCKING
            return self._query(
                replace(query, asked=query.asked | asked, locked=locked, where=query.where + where)
            )
        if name in ("exists", "count", "aexists", "acount"):
            return self._row(query, node, positional, named, test=True)
        if name in _ROWS:
            return self._row(query, node, positional, named)
        if name in ("update", "aupdate"):
            values = tuple(named.items()) + (positional[0].parts if positional else ())
            self._update(replace(query, kind="update", values=values), node)
            return Value("None")
        if name in ("create", "acreate"):
            self.write(
                Spot("orm", query.model, ""),
                "create",
                node,
                frozenset(),
                kind="insert",
                where=tuple(named.items()),
            )
            return Value(f"{query.model}.create@{node.lineno}")
        return None

    def _conditions(
        self, node: ast.Call, positional: list[Value], named: dict[str, Value]
    ) -> tuple[frozenset[str], tuple[tuple[str, Value], ...]]:
        asked = {key.split("__")[0] for key in named}
        where = [(key.split("__")[0], value) for key, value in named.items()]
        for each in node.args:
            for test in ast.walk(each):
                if isinstance(test, ast.Compare) and isinstance(test.left, ast.Attribute):
                    asked.add(test.left.attr)
                    where.append((test.left.attr, self.eval(test.comparators[0])))
                elif isinstance(test, ast.Call) and last_name(test.func) == "Q":
                    asked |= {key.arg.split("__")[0] for key in test.keywords if key.arg}
        return frozenset(asked), tuple(where)

    def _row(
        self,
        query: Query,
        node: ast.Call,
        positional: list[Value],
        named: dict[str, Value],
        test: bool = False,
    ) -> Value:
        asked, where = self._conditions(node, positional, named)
        safe = "FOR UPDATE" if query.locked else ""
        if query.cls is not None and query.cls.versioned:
            safe = "version_id_col"
        if self.module.serializable:
            safe = "SERIALIZABLE"
        where = query.where + where or tuple((f"#{at}", each) for at, each in enumerate(positional))
        read = self.read(
            Spot("orm", query.model, ""),
            last_name(node.func),
            node,
            test=test,
            safe=safe,
            asked=query.asked | asked,
            columns=query.columns,
            where=where,
        )
        if query.explicit:
            self.explicit.add(read)
        return Value(
            f"{query.model}@{node.lineno}",
            frozenset({Flow(read, "=")}),
            kind="row",
            holder=query.model,
            about=query.cls,
        )

    def _update(self, query: Query, node: ast.Call) -> None:
        fields = frozenset(name for name, _ in query.values)
        flows = {
            flow
            for name, value in query.values
            for flow in value.flows
            if flow.part in ("", "=", name)
            or (flow.part.isdigit() and name in flow.read.columns[int(flow.part) :][:1])
        }
        guard = self.compared(query.where, set(fields))
        guard = guard or next((each for each in query.asked if VERSIONS.match(each)), "")
        self.write(
            Spot("orm", query.model, "", fields),
            "update",
            node,
            frozenset(flows),
            guard=guard,
            marks=frozenset().union(*(each.marks for _, each in query.values)),
            where=query.where,
            kind="claim",
        )

    def own_row(self, function: FunctionInfo) -> Value | None:
        """Return what `self` is: in a method of a mapped class that saves, a row read before."""
        cls = function.cls
        if cls is None:
            return None
        own = Value("self", about=cls)
        saves = function.called & {"save", "asave", "commit"}
        if not saves or not cls.is_model or function.is_static or function.node.name in _MAKERS:
            return own
        if not function.parameters or function.parameters[0].arg != "self":
            return own
        safe = "version_id_col" if cls.versioned else ""
        safe = "FOR UPDATE" if function.called & _LOCKING else safe
        read = self.read(Spot("orm", cls.name, ""), "self", function.parameters[0], safe=safe)
        if saves - {"commit"}:
            self.explicit.add(read)
        flows = frozenset({Flow(read, "=")})
        return Value("self", flows, kind="row", holder=cls.name, about=cls)

    def row_assigned(self, target: ast.Attribute, base: Value, value: Value, grows: bool) -> None:
        """Note that an attribute of a mapped object was set."""
        flows = frozenset(flow for flow in value.flows if flow.part == target.attr)
        owners = {flow.read for flow in base.flows if flow.read.spot.store == "orm"}
        if not owners:
            return
        flows = frozenset(flow for flow in flows if flow.read in owners)
        marks = value.marks | ({"appended"} if grows else frozenset())
        if owners & self.explicit:
            self.unsaved.setdefault(base.text, {})[target.attr] = flows, marks
            return
        self._row_written(target, "=", base, {target.attr}, flows, marks)

    def row_changed(
        self, target: ast.Attribute, base: Value, values: list[Value], how: str
    ) -> None:
        """Note that what an attribute of a mapped object holds was changed in place."""
        reads = {flow.read for flow in base.flows} & self.explicit
        if not reads or any(each.kind in ("new", "row") for each in values):
            return
        flows = frozenset(Flow(read, target.attr) for read in reads)
        self.unsaved.setdefault(base.text, {})[target.attr] = flows, frozenset({how})

    def _saved(self, node: ast.Call, base: Value, parts_only: bool) -> None:
        """Judge what `save()` writes: the changed columns, and the others as they were read."""
        columns = self.unsaved.pop(base.text)
        for column, (flows, marks) in columns.items():
            self._row_written(node, "save", base, {column}, flows, marks)
        slow = [
            flow for flow in base.flows if flow.part == "=" and flow.read.slow < self.state.slow
        ]
        if slow and not parts_only:
            marks = frozenset({"computed"})
            self._row_written(node, "save", base, set(), frozenset(slow), marks)

    def _row_written(
        self,
        node: ast.AST,
        method: str,
        base: Value,
        columns: set[str],
        flows: frozenset[Flow],
        marks: frozenset[str],
    ) -> None:
        spot = Spot("orm", base.holder, "", frozenset(columns))
        self.write(spot, method, node, flows, marks=marks, where=(("#owner", base),))


def _class(value: Value) -> ClassInfo | None:
    return value.about if isinstance(value.about, ClassInfo) else None
