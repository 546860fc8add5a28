"""SQL: what the statements that are executed read, write and compare."""

from __future__ import annotations

import ast
import re

from interlock.audit.expression import weak
from interlock.audit.files import Files
from interlock.audit.sql import VERSIONS, Bound, Statement, parse
from interlock.audit.value import Flow, Spot, Value

_EXECUTES = {
    *(
        "execute",
        "executemany",
        "fetchrow",
        "fetchval",
        "fetchone",
        "fetchall",
        "fetch",
        "fetch_all",
        "fetch_one",
    ),
    *(
        "fetch_val",
        "exec_driver_sql",
        "query",
        "execute_query",
        "exec",
        "scalar",
        "run_query",
        "executescript",
        "scalars",
        "sql",
    ),
    *("execute_fetchall", "query_one", "execute_sql", "raw"),
}


class Database(Files):
    """Evaluates calls that execute SQL."""

    def sql_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
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
            read = self.read(
                spot,
                "SELECT",
                node,
                test=statement.counts,
                safe=safe,
                asked=asked,
                columns=statement.columns,
                where=where,
            )
            rows = Value(f"rows@{node.lineno}", frozenset({Flow(read, "=")}))
            self.state.heap[f"{holder}#rows"] = rows
            return rows
        self.state.heap.pop(f"{holder}#rows", None)
        if statement.verb == "delete":
            return Value("None")
        self._sql_write(node, statement, spot, where, given)
        return Value(f"{holder}.{name}@{node.lineno}")

    def _sql_write(
        self,
        node: ast.Call,
        statement: Statement,
        spot: Spot,
        where: tuple[tuple[str, Value], ...],
        given: list[Value],
    ) -> None:
        sets = bind(statement.sets, given)
        flows: set[Flow] = set()
        marks: set[str] = set()
        for column, value in sets:
            flows |= {flow for flow in value.flows if same_part(flow, column, statement.columns)}
            marks |= value.marks
        if not statement.columns:  # they are put together while it runs
            for value in given:
                flows |= weak(value.flows)
                marks |= value.marks
        fields = frozenset(statement.columns)
        guard = ""
        if statement.verb == "update":
            guard = self.compared(where, set(statement.columns))
            names = [each.column for each in statement.where]
            guard = guard or next(
                (n for n in names if VERSIONS.match(n) or n in statement.columns), ""
            )
        if statement.exists:
            guard = guard or "the condition in the statement"
        if statement.verb == "insert":
            where = sets if statement.columns else (("#columns", Value("?")),)
            if statement.merges and not statement.replaces:
                guard = "ON CONFLICT"
            elif not statement.replaces:
                self.write(spot, "INSERT", node, frozenset(flows), kind="insert", where=where)
                return
        self.write(
            Spot("sql", spot.holder, "", fields),
            statement.verb.upper(),
            node,
            frozenset(flows),
            guard=guard,
            marks=frozenset(marks),
            where=where,
            kind="claim" if statement.verb == "update" else "write",
        )

    def compared(self, where: tuple[tuple[str, Value], ...], fields: set[str]) -> str:
        """Return the column by which a condition compares what was read, or nothing."""
        for column, value in where:
            old = any(flow.part not in ("", "=") for flow in value.flows) and not IDS.match(column)
            if VERSIONS.match(column) or old or (column in fields and not IDS.match(column)):
                return column
        return ""


IDS = re.compile(r"(?i)^(_?id|pk|key|uuid|name|slug|email|\w+_id|\w+_key|\w+_name|\w+_uuid)$")


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
    return (selected in (("*",), ()) and part.isdigit()) or [each.lower() for each in selected] == [
        column.lower()
    ]


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
