"""Statements: the paths through a function, with branches that fork, meet and go round.

One function is walked at a time.  A branch gets a copy of the state and the copies are joined after
it; a branch that ends (return, raise, break, continue) is not joined, and what comes after it is
conditional on its test.  The body of an outer loop is walked twice, so that what is read at its end
reaches the writes at its start.  A call of a function of the project is followed into it.
"""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import replace

from interlock.audit.access import Accesses
from interlock.audit.expression import dotted_name, weak
from interlock.audit.finding import Finding
from interlock.audit.judge import Judge
from interlock.audit.locks import LOCK
from interlock.audit.project import ClassInfo, FunctionInfo, FunctionNode, Project
from interlock.audit.shape import answers, as_load, ends, expires, is_retry, shared_names
from interlock.audit.shape import compares as test_compares
from interlock.audit.state import Condition, State
from interlock.audit.stores import Stores
from interlock.audit.value import NOTHING, Flow, Read, Site, Spot, Value, Write, merged

_CONFLICTS = re.compile(
    r"(?i)conflict|watcherror|stale|version|precondition|concurren|optimistic|etag|conditionalcheck|transactionaborted"
)
_DUPLICATES = re.compile(r"(?i)integrity|unique|duplicate|exists|conflict")
_BUDGET = 600  # statements of followed calls, a function


class Walk(Accesses):
    """Walks one function."""

    def __init__(self, project: Project, stores: Stores, relevant: frozenset[int]) -> None:
        self.project = project
        self.stores = stores
        self._relevant = relevant
        self.ids = itertools.count(1)
        self.known_locks: set[tuple[str, str]] = set()  # file and key of locks that expire
        self.calls: list[tuple[FunctionInfo, frozenset[str], FunctionInfo]] = []

    def relevant(self, function: FunctionInfo) -> bool:
        """Say whether a function touches a store."""
        return id(function) in self._relevant

    def run(self, function: FunctionInfo) -> list[Finding]:
        """Return what is found in a function."""
        self.root = function
        self.function = function
        self.module = function.module
        self.state = State({}, {})
        self.frames: list[tuple[int, Site]] = []
        self.loops: list[tuple[int, bool]] = []
        self.catching: list[str] = []
        self.handling: list[str] = []
        self.running = [function]
        self.budget = _BUDGET
        self.depth = 0
        self.reads: list[Read] = []
        self.written: dict[str, Value] = {}
        self.explicit = set()
        self.unsaved = {}
        self.locks_taken: dict[str, Value] = {}
        self.shared = shared_names(function)
        self.returned: list[Value] = []
        self.judge = Judge(self)
        self._bind(function, self.own_row(function), [], {})
        if function.safe:
            self.state.held |= {function.safe}
        self.block(function.node.body)
        return self.judge.findings

    def write(
        self,
        spot: Spot,
        method: str,
        node: ast.AST,
        flows: frozenset[Flow],
        *,
        guard: str = "",
        marks: frozenset[str] = frozenset(),
        kind: str = "write",
        arguments: tuple[str, ...] = (),
        where: tuple[tuple[str, Value], ...] = (),
        noun: str = "",
        value: str = "",
        key_flows: frozenset[Flow] = NOTHING,
    ) -> None:
        """Note a write at this point of the path, and judge it."""
        if self.state.dead:
            return
        self.judge.write(
            Write(
                self.site(node),
                spot,
                method,
                flows,
                self.frames[0][1] if self.frames else None,
                tuple(at for at, _ in self.frames),
                guard or self.function.safe,
                marks,
                arguments,
                where,
                kind,
                noun,
                value,
                key_flows,
            )
        )

    def fixed_id(self, node: ast.Call, ids: Value, holder: str) -> None:
        """Judge the ids under which vectors are written."""
        if not self.state.dead:
            self.judge.fixed_id(self.site(node), ids, holder, self.frames)

    # Functions.

    def _bind(
        self,
        info: FunctionInfo,
        own: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> None:
        env = self.state.env
        parameters = list(info.parameters)
        if own is not None and parameters and not info.is_static:
            env[parameters.pop(0).arg] = own
        defaults = info.node.args.defaults
        for at, parameter in enumerate(parameters):
            if at < len(positional):
                env[parameter.arg] = positional[at]
            elif parameter.arg in named:
                env[parameter.arg] = named[parameter.arg]
            else:
                back = len(parameters) - at
                default = defaults[-back] if back <= len(defaults) else None
                known = isinstance(default, ast.Constant) and self.frames
                env[parameter.arg] = (
                    self.eval(default) if known else self._parameter(parameter, info)
                )
        for parameter in info.node.args.kwonlyargs:
            env[parameter.arg] = named.get(parameter.arg) or self._parameter(parameter, info)

    def _parameter(self, parameter: ast.arg, info: FunctionInfo) -> Value:
        return self.instance(parameter.arg, None, parameter.annotation, info.module)

    def inline(
        self,
        target: FunctionInfo,
        node: ast.expr,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value:
        """Follow a call into the function that it calls."""
        call_site = self.site(node)
        saved = (
            self.module,
            self.function,
            self.state.env,
            self.state.conditions,
            self.returned,
            self.loops,
            self.state.held,
            self.shared,
            self.state.dead,
        )
        self.module, self.function = target.module, target
        self.state.env = (
            dict(saved[2])
            if not target.module.functions.get(target.node.name) and target.cls is None
            else {}
        )
        self.returned = []
        self.shared = frozenset()
        self.frames.append((next(self.ids), call_site))
        self.running.append(target)
        self.depth += 1
        try:
            own = base
            if (
                target.cls is not None
                and base is not None
                and (not isinstance(base.about, ClassInfo) or base.about.name in target.cls.bases)
            ):
                own = Value(base.text, about=target.cls)
            self._bind(target, own, positional, named)
            if target.safe:
                self.state.held |= {target.safe}
            self.block(target.node.body)
            returned = self.returned
        finally:
            self.depth -= 1
            self.running.pop()
            self.frames.pop()
            held_after = self.state.held
            (
                self.module,
                self.function,
                self.state.env,
                self.state.conditions,
                self.returned,
                self.loops,
                held,
                self.shared,
                self.state.dead,
            ) = saved
        lockish = LOCK.search(target.node.name) or "acquire" in target.node.name
        self.state.held = held_after if lockish else held
        values = [each for each in returned if each.text != "None"]
        arguments = ", ".join(each.text for each in (*positional, *named.values()))
        head = f"{base.text}.{target.node.name}" if base is not None else target.node.name
        text = f"{head}({arguments})"[:300]
        if not values:
            return Value(text)
        value = merged(values, text)
        if (
            value.text.endswith("]")
            or "@" in value.text
            or "~" in value.text
            or value.text in ("True", "False")
        ):
            value = replace(value, text=text, node=None)
        return value

    # Statements.

    def block(self, body: list[ast.stmt]) -> None:
        """Walk statements until the path ends."""
        before = self.state.conditions
        for each in body:
            if self.state.dead:
                break
            if self.frames:
                self.budget -= 1
            method = getattr(self, "_" + type(each).__name__.lower() + "_statement", None)
            if method is not None:
                method(each)
        if not self.state.dead:
            self.state.conditions = before

    def _expr_statement(self, node: ast.Expr) -> None:
        self.eval(node.value)

    def _assign_statement(self, node: ast.Assign) -> None:
        value = self.eval(node.value)
        for target in node.targets:
            self.assign(target, value)

    def _annassign_statement(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            value = self.eval(node.value)
            if not value.kind and value.about is None:
                hint = self.instance(value.text, None, node.annotation, self.module)
                if hint.about is not None and not value.flows:
                    value = replace(value, kind=hint.kind, about=hint.about, node=None)
            self.assign(node.target, value)

    def _augassign_statement(self, node: ast.AugAssign) -> None:
        load = as_load(node.target)
        old = self.eval(load)
        value = self.eval(node.value)
        grows = isinstance(node.op, ast.Add) and isinstance(node.value, ast.List | ast.ListComp)
        marks = (value.marks & {"model"}) | ({"appended"} if grows else {"arithmetic"})
        const = (
            old.const + value.const if old.const is not None and value.const is not None else None
        )
        new = Value(
            f"({old.text} + {value.text})"[:300],
            weak(old.flows) | weak(value.flows),
            const=const,
            marks=frozenset(marks),
        )
        if isinstance(node.target, ast.Attribute):
            self._set_attribute(node.target, new, grows)
        else:
            self.assign(node.target, new)

    def assign(self, target: ast.expr, value: Value) -> None:
        """Store a value under a name, an attribute or an element."""
        if isinstance(target, ast.Name):
            if target.id in self.shared:
                self.write(
                    Spot("memory", "", target.id), "=", target, value.flows, marks=value.marks
                )
                return
            if value.text == "None" or (value.kind in ("list", "dict") and not value.flows):
                value = replace(value, text=f"{target.id}@{target.lineno}", node=None)
            self.state.env[target.id] = value
        elif isinstance(target, ast.Attribute):
            self._set_attribute(target, value, False)
        elif isinstance(target, ast.Subscript):
            self._set_element(target, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for at, each in enumerate(target.elts):
                part = value.part(str(at))
                if part is None:
                    flows = frozenset(
                        Flow(
                            f.read,
                            str(at)
                            if f.part in ("", "=") and f.read.spot.store == "sql"
                            else f.part,
                        )
                        for f in value.flows
                    )
                    part = Value(
                        f"{value.text}[{at}]",
                        flows,
                        value.kind if value.kind == "row" else "",
                        value.holder,
                        marks=value.marks,
                    )
                self.assign(each.value if isinstance(each, ast.Starred) else each, part)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value)

    def _set_attribute(self, target: ast.Attribute, value: Value, grows: bool) -> None:
        base = self.eval(target.value)
        text = f"{base.text}.{target.attr}"
        if base.kind == "row":
            self.row_assigned(target, base, value, grows)
        if text in self.shared:
            self.write(Spot("memory", "", text), "=", target, value.flows, marks=value.marks)
            return
        if base.flows and isinstance(target.value, ast.Name):
            self.mutate(target.value, [value], "changed", target)
        if base.kind in ("file", "query"):
            return
        self.state.heap[text] = Value(
            text
            if not value.kind
            or value.flows
            or "@" in value.text
            or value.kind in ("list", "dict", "row")
            else value.text,
            value.flows,
            value.kind,
            value.holder or value.text,
            value.const,
            value.marks,
            value.parts,
            value.about,
        )

    def _set_element(self, target: ast.Subscript, value: Value) -> None:
        base = self.eval(target.value)
        index = self.eval(target.slice)
        key = index.const if index.const is not None else index.text
        if base.kind == "memory":
            self.write(
                Spot("memory", "", base.text, frozenset({key})),
                "[]=",
                target,
                value.flows,
                marks=value.marks,
                value=value.text,
            )
        self.mutate(target.value, [value], "changed", target)
        self.state.heap.pop(f"{base.text}[{index.text}]", None)

    def _delete_statement(self, node: ast.Delete) -> None:
        for each in node.targets:
            if isinstance(each, ast.Name):
                self.state.env.pop(each.id, None)

    def _return_statement(self, node: ast.Return) -> None:
        value = self.eval(node.value) if node.value is not None else Value("None")
        self.returned.append(value)
        self.state.dead = True

    def _raise_statement(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self.eval(node.exc)
        self.state.dead = True

    def _continue_statement(self, node: ast.Continue) -> None:
        self.state.dead = True

    def _break_statement(self, node: ast.Break) -> None:
        self.state.dead = True

    def _assert_statement(self, node: ast.Assert) -> None:
        self.eval(node.test)

    def _functiondef_statement(self, node: FunctionNode) -> None:
        info = next((each for each in self.module.all_functions if each.node is node), None)
        if info is not None:
            self.state.env[node.name] = Value(node.name, kind="function", about=info)

    _asyncfunctiondef_statement = _functiondef_statement

    def _if_statement(self, node: ast.If) -> None:
        test = self.eval(node.test)
        start = self.state
        before = len(self.returned)
        yes, no = start.fork(), start.fork()
        decides = bool(test.flows)
        if decides:
            names = frozenset(n.id for n in ast.walk(node.test) if isinstance(n, ast.Name))
            compares = test_compares(node.test)
            says_yes, says_no = (
                answers(node.body, self.state.env),
                answers(node.orelse, self.state.env),
            )
            yes.conditions += (
                Condition(test.flows, names, node.lineno, says_no, ends(node.orelse), compares),
            )
            no.conditions += (
                Condition(test.flows, names, node.lineno, says_yes, ends(node.body), compares),
            )
        self.state = yes
        self.block(node.body)
        returned = frozenset(flow.read for value in self.returned[before:] for flow in value.flows)
        self.state = no
        self.block(node.orelse)
        self.state = start
        start.become([yes, no], node.lineno)
        if decides and yes.dead and not no.dead:
            start.conditions += (
                Condition(test.flows, names, node.lineno, returned | says_yes, True, compares),
            )
        elif decides and no.dead and not yes.dead:
            start.conditions += (
                Condition(test.flows, names, node.lineno, says_no, True, compares),
            )

    def _while_statement(self, node: ast.While) -> None:
        self.eval(node.test)
        self._loop(node, node.body)
        self.block(node.orelse)

    def _for_statement(self, node: ast.For | ast.AsyncFor) -> None:
        source = self.eval(node.iter)
        if isinstance(node, ast.AsyncFor):
            self.state.tick += 1
        if source.kind == "file" and "r" in source.marks:
            source = self._file_read(source.holder, "for", node.iter)
        self.assign(node.target, self.element(source, node.target))
        self._loop(node, node.body)
        self.block(node.orelse)

    _asyncfor_statement = _for_statement

    def _loop(self, node: ast.While | ast.For | ast.AsyncFor, body: list[ast.stmt]) -> None:
        retries = is_retry(node)
        self.loops = [*self.loops, (next(self.ids), retries)]
        start = self.state
        for _ in range(2 if len(self.loops) == 1 and not self.frames else 1):
            once = start.fork()
            self.state = once
            self.block(body)
            self.state = start
            endless = (
                isinstance(node, ast.While)
                and isinstance(node.test, ast.Constant)
                and bool(node.test.value)
            )
            conditions = start.conditions
            dead = once.dead
            once.dead = False
            if dead and endless:
                start.become([once], node.lineno)
            else:
                start.become([start.fork(), once], node.lineno)
            start.conditions = conditions
        self.loops = self.loops[:-1]

    def _with_statement(self, node: ast.With | ast.AsyncWith) -> None:
        taken: list[str] = []
        leases: list[tuple[str, int, ast.Call]] = []
        writes = self.judge.writes
        for item in node.items:
            value = self.eval(item.context_expr)
            source = ast.unparse(item.context_expr)
            called = dotted_name(item.context_expr)
            locks = value.kind == "lock" or (LOCK.search(called) and "clock" not in called.lower())
            inner = item.context_expr
            if isinstance(inner, ast.Call) and re.search(
                r"(?i)serializable|isolation|immediate|exclusive", source
            ):
                locks = True
            if locks:
                lock = value.holder or value.text
                taken.append(lock)
                self.state.held |= {lock}
                if isinstance(inner, ast.Call) and expires(inner, called, self.module):
                    leases.append((lock, self.state.slow, inner))
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value)
        waits = isinstance(node, ast.AsyncWith)
        self.state.tick += waits
        self.block(node.body)
        self.state.held -= set(taken)
        for lock, slow, call in leases:
            if self.state.slow > slow and self.judge.writes > writes and not self.frames:
                self.judge.lease(self.site(call), lock)
        self.state.tick += waits

    _asyncwith_statement = _with_statement

    def _try_statement(self, node: ast.Try) -> None:
        start = self.state
        caught = " ".join(
            ast.unparse(each.type) if each.type else "Exception" for each in node.handlers
        )
        self.catching.append(caught)
        body = start.fork()
        self.state = body
        self.block(node.body)
        self.catching.pop()
        self.block(node.orelse)
        ends = [body]
        for handler in node.handlers:
            entered = start.fork()
            alive = body.fork()
            alive.dead = False
            entered.become([entered.fork(), alive], node.lineno)
            entered.conditions = start.conditions
            entered.watched = start.watched
            self.state = entered
            self.handling.append(ast.unparse(handler.type) if handler.type else "")
            self.block(handler.body)
            self.handling.pop()
            ends.append(entered)
        self.state = start
        conditions = start.conditions
        start.become(ends, node.lineno)
        if not body.dead and all(each.dead for each in ends[1:]):
            start.conditions = body.conditions
        else:
            start.conditions = conditions
        if node.finalbody:
            dead, start.dead = start.dead, False
            self.block(node.finalbody)
            start.dead = dead or start.dead

    _trystar_statement = _try_statement

    def _match_statement(self, node: ast.Match) -> None:
        subject = self.eval(node.subject)
        start, ends = self.state, []
        for case in node.cases:
            branch = start.fork()
            branch.conditions += (
                Condition(subject.flows, frozenset(), node.lineno, frozenset(), False),
            )
            self.state = branch
            self.block(case.body)
            ends.append(branch)
        self.state = start
        start.become([*ends, start.fork()], node.lineno)

    @property
    def in_retry(self) -> tuple[int, ...]:
        """The loops around this point that try again."""
        return tuple(at for at, retries in self.loops if retries)

    @property
    def conflict_handler(self) -> bool:
        """Whether this point is reached after a conflict."""
        return any(_CONFLICTS.search(each) for each in self.handling)

    @property
    def duplicates_caught(self) -> bool:
        """Whether an insert of what exists already is an error that is handled."""
        return any(_DUPLICATES.search(each) for each in self.catching)
