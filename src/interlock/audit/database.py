"""Files, SQL and mapped objects: reads and writes that are recognised by more than a method's name."""

from __future__ import annotations

import ast
import itertools
import re

from interlock.audit.expression import Expressions, dotted_name, weak
from interlock.audit.project import ClassInfo, FunctionInfo, last_name
from interlock.audit.sql import VERSIONS, Bound, Statement, parse
from interlock.audit.state import State
from interlock.audit.value import NOTHING, Flow, Read, Site, Spot, Value

_EXECUTES = {
    *("execute", "executemany", "fetchrow", "fetchval", "fetchone", "fetchall", "fetch", "fetch_all", "fetch_one"),
    *("fetch_val", "exec_driver_sql", "query", "execute_query", "exec", "scalar", "run_query", "executescript", "scalars", "sql"),
    *("execute_fetchall", "query_one", "execute_sql", "raw"),
}
_ROWS = {"first", "one", "one_or_none", "scalar", "scalar_one", "scalar_one_or_none", "all", "scalars", "get", "get_or_none", "last", "afirst", "aget", "latest", "earliest", "fetchone", "fetchall", "first_or_404", "get_or_404"}
_FILTERS = {"where", "filter", "filter_by", "options", "order_by", "limit", "join", "with_for_update", "select_for_update", "exclude", "select_related", "prefetch_related", "using", "offset", "outerjoin", "populate_existing", "for_update", "only", "distinct", "execution_options"}
_LOCKING = {"with_for_update", "select_for_update", "for_update", "with_lockmode"}
_PATH_READS = {"read_text", "read_bytes"}
_PATH_WRITES = {"write_text", "write_bytes"}
_PANDAS = re.compile(r"^(pd|pandas|pl|polars|np|numpy|torch|joblib|toml|tomllib)\.(read_\w+|load)$")
_SAVERS = re.compile(r"^(torch|joblib|np|numpy)\.(save|dump|savez)$")
_MOVES = {"replace", "rename", "move", "renames"}


class Query:
    """A query of mapped objects while it is being built."""

    def __init__(self, model: str, asked: frozenset[str] = frozenset(), locked: bool = False,
                 kind: str = "select", values: tuple[tuple[str, Value], ...] = (),
                 where: tuple[tuple[str, Value], ...] = (), cls: ClassInfo | None = None) -> None:
        self.model = model
        self.asked = asked
        self.locked = locked
        self.kind = kind
        self.values = values
        self.where = where
        self.cls = cls


class Database(Expressions):
    """Evaluates calls on files, cursors and sessions."""

    written: dict[str, Value]
    locks_taken: dict[str, Value]
    known_locks: set[tuple[str, str]]
    calls: list[tuple[FunctionInfo, frozenset[str], FunctionInfo]]
    running: list[FunctionInfo]
    reads: list[Read]
    loops: list[tuple[int, bool]]
    ids: itertools.count[int]
    catching: list[str]

    def write(
        self, spot: Spot, method: str, node: ast.AST, flows: frozenset[Flow], *, guard: str = "",
        marks: frozenset[str] = frozenset(), kind: str = "write", arguments: tuple[str, ...] = (),
        where: tuple[tuple[str, Value], ...] = (), noun: str = "", value: str = "",
        key_flows: frozenset[Flow] = NOTHING,
    ) -> None:
        """Note a write at this point of the path, and judge it."""
        raise NotImplementedError

    def read(
        self, spot: Spot, method: str, node: ast.AST, *, test: bool = False, safe: str = "",
        asked: frozenset[str] = frozenset(), columns: tuple[str, ...] = (),
        where: tuple[tuple[str, Value], ...] = (), arguments: tuple[str, ...] = (), noun: str = "",
    ) -> Read:
        """Return a new read at this point of the path."""
        read = Read(
            self.site(node), spot, method, test, self.state.held, self.state.tick,
            tuple(at for at, _ in self.loops), safe or self.function.safe, asked, columns, where,
            tuple(at for at, _ in self.frames), self.frames[0][1] if self.frames else None,
            self.state.slow, arguments, noun,
        )
        self.reads.append(read)
        return read

    def fixed_id(self, node: ast.Call, ids: Value, holder: str) -> None:
        """Judge the ids under which vectors are written."""
        raise NotImplementedError

    def relevant(self, function: FunctionInfo) -> bool:
        """Say whether a function touches a store."""
        raise NotImplementedError

    def inline(
        self, target: FunctionInfo, node: ast.Call, base: Value | None, positional: list[Value], named: dict[str, Value]
    ) -> Value:
        """Follow a call into the function that it calls."""
        raise NotImplementedError

    def mutate(self, target: ast.expr, values: list[Value], how: str, node: ast.AST) -> None:
        """Note that what stands under a name was changed in place."""
        raise NotImplementedError

    # Files.

    def file_call(
        self, node: ast.Call, name: str, base: Value | None, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        """Note what is read from and written to files."""
        dotted = dotted_name(node.func)
        if name == "open" and (base is None or base.text in ("aiofiles", "io", "codecs", "os", "anyio", "gzip", "bz2", "lzma") or not base.kind):
            return self._open(name, base, positional, named)
        if name in ("NamedTemporaryFile", "TemporaryFile", "fdopen", "mkstemp"):
            text = f"{name}@{node.lineno}"
            return Value(text, kind="file", holder=text, marks=frozenset({"w"}))
        if base is not None and name in _PATH_READS:
            return self._file_read(base.text, name, node)
        if base is not None and name in _PATH_WRITES and positional:
            self._file_write(base.text, name, node, positional[:1])
            return Value("None")
        if _PANDAS.match(dotted) and positional and positional[0].kind != "file":
            return self._file_read(positional[0].text, name, node)
        if _SAVERS.match(dotted) and len(positional) > 1:
            first, second = positional[0], positional[1]
            data, path = (second, first) if name == "save" and dotted.startswith("n") else (first, second)
            self._file_write(path.text, name, node, [data])
            return Value("None")
        if base is not None and name.startswith("to_") and base.flows and positional and name not in ("to_dict", "to_list", "to_numpy"):
            self._file_write(positional[0].text, name, node, [base])
            return Value("None")
        if name in _MOVES and base is not None:
            return self._move(node, name, base, positional)
        if base is not None and base.kind == "file":
            return self._on_file(node, name, base, positional, named)
        handles = [each for each in [*positional, *named.values()] if each.kind == "file"]
        if handles:
            handle = handles[0]
            rest = [each for each in [*positional, *named.values()] if each is not handle]
            if "r" in handle.marks and (not rest or "w" not in handle.marks) and not name.startswith("dump"):
                return self._file_read(handle.holder, name, node)
            if "w" in handle.marks and name in ("writer", "DictWriter", "TextIOWrapper"):
                return handle
            if "w" in handle.marks and rest:
                self._file_write(handle.holder, name, node, rest)
                return Value("None")
        return None

    def _open(self, name: str, base: Value | None, positional: list[Value], named: dict[str, Value]) -> Value | None:
        plain = base is None or base.text in ("aiofiles", "io", "codecs", "os", "anyio", "gzip", "bz2", "lzma")
        arguments = positional[1:] if plain else positional
        mode = named.get("mode") or (arguments[0] if arguments else None)
        path = positional[0] if plain and positional else named.get("file") if plain else base
        if path is None or (mode is not None and mode.const is None):
            return None
        letters = mode.const if mode is not None and mode.const is not None else "r"
        if not re.fullmatch(r"[rwaxbt+U]+", letters):
            return None
        marks = {"r"} if "r" in letters else set()
        marks |= {"w"} if "w" in letters else set()
        marks |= {"r", "w"} if "+" in letters and "a" not in letters else set()
        return Value(f"open({path.text})", kind="file", holder=path.text, marks=frozenset(marks or {"a"}))

    def _on_file(self, node: ast.Call, name: str, base: Value, positional: list[Value], named: dict[str, Value]) -> Value | None:
        if name.startswith("read"):
            if "r" not in base.marks:
                return Value(f"{base.text}.{name}()")
            return self._file_read(base.holder, name, node)
        if name.startswith("write") and positional:
            if "w" in base.marks:
                self._file_write(base.holder, name, node, positional)
            return Value("None")
        return None

    def _file_read(self, path: str, name: str, node: ast.AST) -> Value:
        read = self.read(Spot("file", "", path), name, node)
        return Value(f"content of {path}", frozenset({Flow(read, "=")}))

    def _file_write(self, path: str, name: str, node: ast.AST, values: list[Value]) -> None:
        flows = frozenset().union(*(each.flows for each in values))
        marks = frozenset().union(*(each.marks for each in values))
        written = Value("", flows, marks=marks)
        self.written[path] = written
        self.written[f"open({path}).name"] = written
        self.written[f"{path}.name"] = written
        self.write(Spot("file", "", path), name, node, flows, marks=marks, value=values[0].text)

    def _move(self, node: ast.Call, name: str, base: Value, positional: list[Value]) -> Value | None:
        if base.text in ("os", "shutil") and len(positional) >= 2:
            source, target = positional[0].text, positional[1].text
        elif len(positional) == 1 and name in ("replace", "rename"):
            source, target = base.text, positional[0].text
        else:
            return None
        moved = self.written.get(source)
        if moved is None:
            return None
        self.write(Spot("file", "", target), name, node, moved.flows, marks=moved.marks)
        return Value("None")

    # SQL.

    def sql_call(
        self, node: ast.Call, name: str, base: Value | None, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        """Note what a statement of SQL reads and writes."""
        if base is not None and name in ("fetchone", "fetchall", "fetchmany", "fetchval"):
            rows = self.state.heap.get(f"{base.text}#rows")
            if rows is not None and not positional:
                return rows
        if name not in _EXECUTES or not positional:
            return None
        text = positional[0].const
        statement = parse(text) if text is not None else None
        if statement is None or text is None:
            return None
        if statement.verb == "lock":
            self.state.held = self.state.held | {"exclusive transaction"}
            return Value("None")
        given = positional[1:] if not named else [*positional[1:], *named.values()]
        where = bind(statement.where, given)
        holder = base.text if base is not None else ""
        spot = Spot("sql", statement.table, "", frozenset())
        if statement.verb == "select":
            safe = "FOR UPDATE" if statement.locks else ""
            if self.module.serializable:
                safe = "SERIALIZABLE"
            asked = frozenset(each.column for each in statement.where)
            read = self.read(spot, "SELECT", node, test=statement.counts, safe=safe, asked=asked,
                             columns=statement.columns, where=where)
            rows = Value(f"rows@{node.lineno}", frozenset({Flow(read, "=")}))
            self.state.heap[f"{holder}#rows"] = rows
            return rows
        self.state.heap.pop(f"{holder}#rows", None)
        if statement.verb == "delete":
            return Value("None")
        self._sql_write(node, statement, spot, where, given)
        return Value(f"{holder}.{name}@{node.lineno}")

    def _sql_write(self, node: ast.Call, statement: Statement, spot: Spot,
                   where: tuple[tuple[str, Value], ...], given: list[Value]) -> None:
        sets = bind(statement.sets, given)
        flows: set[Flow] = set()
        marks: set[str] = set()
        for column, value in sets:
            flows |= {flow for flow in value.flows if same_part(flow, column, statement.columns)}
            marks |= value.marks
        if not sets and statement.sets:
            pass
        fields = frozenset(statement.columns)
        guard = ""
        if statement.verb == "update":
            guard = self.compared(where, set(statement.columns))
            names = [each.column for each in statement.where]
            guard = guard or next((n for n in names if VERSIONS.match(n) or n in statement.columns), "")
        if statement.exists:
            guard = guard or "the condition in the statement"
        if statement.verb == "insert":
            where = sets
            if statement.merges and not statement.replaces:
                guard = "ON CONFLICT"
            elif not statement.replaces:
                self.write(spot, "INSERT", node, frozenset(flows), kind="insert", where=where)
                return
        self.write(Spot("sql", spot.holder, "", fields), statement.verb.upper(), node, frozenset(flows),
                   guard=guard, marks=frozenset(marks), where=where,
                   kind="claim" if statement.verb == "update" else "write")

    def compared(self, where: tuple[tuple[str, Value], ...], fields: set[str]) -> str:
        """Return the column by which a condition compares what was read, or nothing."""
        for column, value in where:
            old = any(flow.part not in ("", "=") for flow in value.flows) and not IDS.match(column)
            if VERSIONS.match(column) or old or (column in fields and not IDS.match(column)):
                return column
        return ""

    # Mapped objects.

    def model_call(
        self, node: ast.Call, name: str, base: Value | None, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        """Note what is read and written through an object-relational mapper."""
        if name in ("select", "update", "delete", "query", "Select") and positional and self._is_model(node.args[0], positional[0]):
            model = positional[0].text.split(".")[0]
            return self._query(Query(model, kind="update" if name == "update" else "select", cls=_class(positional[0])))
        if name in ("get_object_or_404", "aget_object_or_404") and positional:
            locked = isinstance(positional[0].about, Query) and positional[0].about.locked
            model = positional[0].about.model if isinstance(positional[0].about, Query) else positional[0].text
            return self._row(Query(model, frozenset(named), locked), node, positional[1:], named)
        if base is None:
            return None
        if base.kind == "query" and isinstance(base.about, Query):
            return self._on_query(node, name, base.about, positional, named)
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Attribute) and node.func.value.attr in ("objects", "query", "_default_manager"):
            owner = node.func.value.value
            if self._is_model(owner, self.eval(owner)):
                return self._on_query(node, name, Query(ast.unparse(owner), cls=_class(self.eval(owner))), positional, named)
        if name in ("get", "get_one", "merge") and positional and len(positional) >= 2 and self._is_model(node.args[0], positional[0]):
            locked = "with_for_update" in named and named["with_for_update"].text not in ("False", "None")
            return self._row(Query(positional[0].text, frozenset({"id"}), locked, cls=_class(positional[0])), node, positional[1:2], {})
        if name in ("get_or_none", "get_by_id", "get", "select", "filter", "find_one", "afind", "get_or_404") and self._is_model(node.func.value, base) and isinstance(node.func, ast.Attribute):
            cls = base.about if isinstance(base.about, ClassInfo) else None
            if cls is not None and cls.is_model and name not in cls.methods:
                return self._on_query(node, name, Query(cls.name, cls=cls), positional, named)
        if name in ("execute", "scalars", "scalar", "exec", "get_one") and positional and isinstance(positional[0].about, Query):
            query = positional[0].about
            if query.kind == "update":
                self._update(query, node)
                return Value("None")
            return self._row(query, node, [], {})
        if name in ("add", "add_all") and positional and positional[0].kind == "new":
            self.write(Spot("orm", positional[0].holder, ""), "add", node, frozenset(), kind="insert", where=positional[0].parts)
            return Value("None")
        if name in ("refresh",) and positional and isinstance(node.args[0], ast.Name) and "with_for_update" in named:
            read = self.read(Spot("orm", positional[0].holder, ""), "refresh", node, safe="FOR UPDATE")
            value = positional[0]
            self.state.env[node.args[0].id] = Value(value.text, frozenset({Flow(read, "=")}), value.kind, value.holder, about=value.about)
            return Value("None")
        return None

    def _is_model(self, node: ast.expr, value: Value) -> bool:
        if isinstance(value.about, ClassInfo) and value.kind == "class":
            return value.about.is_model or not value.about.bases or not value.about.methods
        name = last_name(node)
        return bool(re.match(r"[A-Z]\w*[a-z]", name)) and name not in ("Path", "Enum")

    def _query(self, query: Query) -> Value:
        return Value(f"query of {query.model}", kind="query", holder=query.model, about=query)

    def _on_query(self, node: ast.Call, name: str, query: Query, positional: list[Value], named: dict[str, Value]) -> Value | None:
        if name == "values" and query.kind == "update":
            values = tuple(named.items()) + (positional[0].parts if positional else ())
            return self._query(Query(query.model, query.asked, query.locked, "update", values, query.where, query.cls))
        if name in _FILTERS:
            asked, where = self._conditions(node, positional, named)
            locked = query.locked or name in _LOCKING
            return self._query(Query(query.model, query.asked | asked, locked, query.kind, query.values, query.where + where, query.cls))
        if name in ("exists", "count"):
            asked, where = self._conditions(node, positional, named)
            return self._row(query, node, positional, named, test=True)
        if name in _ROWS:
            return self._row(query, node, positional, named)
        if name == "update":
            values = tuple(named.items()) + (positional[0].parts if positional else ())
            self._update(Query(query.model, query.asked, query.locked, "update", values, query.where, query.cls), node)
            return Value("None")
        if name == "create":
            self.write(Spot("orm", query.model, ""), "create", node, frozenset(), kind="insert", where=tuple(named.items()))
            return Value(f"{query.model}.create@{node.lineno}")
        return None

    def _conditions(self, node: ast.Call, positional: list[Value], named: dict[str, Value]) -> tuple[frozenset[str], tuple[tuple[str, Value], ...]]:
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

    def _row(self, query: Query, node: ast.Call, positional: list[Value], named: dict[str, Value], test: bool = False) -> Value:
        asked, where = self._conditions(node, positional, named)
        safe = "FOR UPDATE" if query.locked else ""
        if query.cls is not None and query.cls.versioned:
            safe = "version_id_col"
        if self.module.serializable:
            safe = "SERIALIZABLE"
        where = query.where + where or tuple((f"#{at}", each) for at, each in enumerate(positional))
        read = self.read(Spot("orm", query.model, ""), last_name(node.func), node, test=test, safe=safe,
                         asked=query.asked | asked, where=where)
        return Value(f"{query.model}@{node.lineno}", frozenset({Flow(read, "=")}), kind="row", holder=query.model, about=query.cls)

    def _update(self, query: Query, node: ast.Call) -> None:
        fields = frozenset(name for name, _ in query.values)
        flows = {flow for name, value in query.values for flow in value.flows if flow.part in ("", "=", name)}
        guard = self.compared(query.where, set(fields))
        guard = guard or next((each for each in query.asked if VERSIONS.match(each)), "")
        self.write(Spot("orm", query.model, "", fields), "update", node, frozenset(flows), guard=guard, where=query.where, kind="claim")

    def row_assigned(self, target: ast.Attribute, base: Value, value: Value, grows: bool) -> None:
        """Note that an attribute of a mapped object was set."""
        flows = frozenset(flow for flow in value.flows if flow.part == target.attr)
        owners = {flow.read for flow in base.flows if flow.read.spot.store == "orm"}
        if not owners:
            return
        flows = frozenset(flow for flow in flows if flow.read in owners)
        marks = value.marks | ({"appended"} if grows else frozenset())
        self.write(Spot("orm", base.holder, "", frozenset({target.attr})), "=", target, flows, marks=marks,
                   where=(("#owner", base),))


IDS = re.compile(r"(?i)^(_?id|pk|key|uuid|name|slug|email|\w+_id|\w+_key|\w+_name|\w+_uuid)$")


def _class(value: Value) -> ClassInfo | None:
    return value.about if isinstance(value.about, ClassInfo) else None


def same_part(flow: Flow, column: str, columns: tuple[str, ...]) -> bool:
    """Say whether data come from the column that they are written to."""
    if flow.read.spot.store != "sql" or flow.part in ("", "="):
        return True
    part = flow.part
    selected = flow.read.columns
    if part.isdigit() and int(part) < len(selected):
        part = selected[int(part)]
    if part.lower() == column.lower() or part == "*" or not re.fullmatch(r"\w+", part):
        return True
    return selected in (("*",), ()) and part.isdigit() or [each.lower() for each in selected] == [column.lower()]


def bind(bounds: tuple[Bound, ...], given: list[Value]) -> tuple[tuple[str, Value], ...]:
    """Return the values that stand for the parameters of a statement."""
    bound = []
    sequence = given
    mapping: Value | None = None
    if len(given) == 1 and given[0].kind in ("list", "dict"):
        mapping = given[0]
        sequence = [value for _, value in given[0].parts] if given[0].kind == "list" else []
    for each in bounds:
        value: Value | None = None
        if each.parameter.isdigit():
            at = int(each.parameter)
            value = sequence[at] if at < len(sequence) else None
        elif each.parameter and mapping is not None:
            value = mapping.part(each.parameter)
        if value is None and each.parameter and len(given) == 1 and given[0].flows:
            value = Value("?", weak(given[0].flows))
        if value is not None:
            bound.append((each.column, value))
    return tuple(bound)


__all__ = ["Database", "Query", "Site", "State"]
