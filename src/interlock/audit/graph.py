"""LangGraph state: keys that parallel nodes write without a reducer, reducers that drop or double."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from interlock.audit.finding import Finding, Step
from interlock.audit.project import (
    ClassInfo,
    FunctionInfo,
    FunctionNode,
    ModuleInfo,
    Project,
    last_name,
)
from interlock.audit.value import Site

_ADD = {"operator.add", "add"}
_LISTS = re.compile(r"^(list|List|Sequence|tuple|Tuple)\b")
_OTHERS = re.compile(r"^(dict|Dict|set|Set|Mapping|frozenset)\b")


@dataclass
class _Graph:
    """One StateGraph: its state, its nodes, what follows what."""

    state: ClassInfo | None
    nodes: dict[str, FunctionInfo] = field(default_factory=dict)
    edges: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    fanned: set[str] = field(default_factory=set)  # run several times at once: by Send, in a loop
    together: list[set[str]] = field(default_factory=list)


def graph_findings(project: Project, module: ModuleInfo) -> Iterator[Finding]:
    """Yield what is wrong with the states of the graphs that a module builds."""
    if "StateGraph" not in module.source:
        return
    for scope in _scopes(module):
        for graph in _graphs(project, module, scope):
            yield from _judge(project, module, graph)


def _scopes(module: ModuleInfo) -> Iterator[list[ast.AST]]:
    inside = {id(node) for each in module.all_functions for node in each.nodes}
    yield [node for node in ast.walk(module.tree) if id(node) not in inside]
    for each in module.all_functions:
        if "StateGraph" in each.called:
            yield each.nodes


def _graphs(project: Project, module: ModuleInfo, nodes: list[ast.AST]) -> list[_Graph]:
    graphs: dict[str, _Graph] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if last_name(node.value.func) == "StateGraph":
                given = [
                    *node.value.args,
                    *(k.value for k in node.value.keywords if k.arg in ("state_schema",)),
                ]
                state = project.class_named(last_name(given[0]), module) if given else None
                graphs[ast.unparse(target)] = _Graph(state)
    calls = [n for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    for call in sorted(calls, key=lambda each: (each.lineno, each.end_col_offset or 0)):
        assert isinstance(call.func, ast.Attribute)
        root: ast.expr = call.func.value
        while isinstance(root, ast.Call) and isinstance(root.func, ast.Attribute):
            root = root.func.value
        graph = graphs.get(ast.unparse(root))
        if graph is not None:
            _add(project, module, graph, call.func.attr, call)
    for loop in (n for n in nodes if isinstance(n, ast.For | ast.AsyncFor)):
        inside = {id(n) for n in ast.walk(loop)}
        for graph in graphs.values():
            edges = [n for n in calls if id(n) in inside and last_name(n.func) == "add_edge"]
            graph.fanned |= {_text(n.args[1], module) for n in edges if _spreads(n, module)}
    return list(graphs.values())


def _spreads(edge: ast.Call, module: ModuleInfo) -> bool:
    """Say whether an edge in a loop leads from one node to another one each time."""
    if len(edge.args) != 2:
        return False
    source, target = edge.args
    fixed = isinstance(source, ast.Constant) or _text(source, module) in ("__start__", "START")
    return fixed and not isinstance(target, ast.Constant)


def _add(project: Project, module: ModuleInfo, graph: _Graph, method: str, call: ast.Call) -> None:
    args = call.args
    if method == "add_node" and args:
        name = _text(args[0], module)
        run = args[1] if len(args) > 1 else args[0]
        function = _function(project, module, run)
        if function is not None:
            graph.nodes[name] = function
    elif method == "add_edge" and len(args) == 2:
        sources = args[0].elts if isinstance(args[0], ast.List | ast.Tuple) else [args[0]]
        for each in sources:
            graph.edges[_text(each, module)].append(_text(args[1], module))
    elif method == "add_conditional_edges" and len(args) >= 2:
        source = _text(args[0], module)
        router = _function(project, module, args[1])
        named = [*args[2:3], *(k.value for k in call.keywords if k.arg == "path_map")]
        targets: set[str] = set()
        for each in named:
            values = each.values if isinstance(each, ast.Dict) else getattr(each, "elts", [])
            targets |= {_text(value, module) for value in values}
        if router is None:
            return
        sent, several = _routes(router, module)
        graph.fanned |= sent
        if several:
            graph.together.append(targets | several)
        for target in targets | sent | several:
            graph.edges[source].append(f"?{target}")


def _routes(router: FunctionInfo, module: ModuleInfo) -> tuple[set[str], set[str]]:
    """Return the nodes that a router sends to many times, and those that it sends to at once."""
    sent: set[str] = set()
    several: set[str] = set()
    for node in ast.walk(router.node):
        if isinstance(node, ast.Call) and last_name(node.func) == "Send" and node.args:
            sent.add(_text(node.args[0], module))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.List):
            texts = [each for each in node.value.elts if isinstance(each, ast.Constant)]
            if len(texts) > 1:
                several |= {str(each.value) for each in texts}
    return sent, several


def _function(project: Project, module: ModuleInfo, node: ast.expr) -> FunctionInfo | None:
    if isinstance(node, ast.Name):
        found = project.function_named(node.id, module)
        if found is None:
            found = next((each for each in module.all_functions if each.node.name == node.id), None)
        return found
    if isinstance(node, ast.Attribute):
        return next((each for each in module.all_functions if each.node.name == node.attr), None)
    if isinstance(node, ast.Call) and last_name(node.func) == "partial" and node.args:
        return _function(project, module, node.args[0])
    if isinstance(node, ast.Call):  # a function that makes the node
        maker = _function(project, module, node.func)
        inner = maker.node.body[-1] if maker is not None else None
        if isinstance(inner, ast.Return) and isinstance(inner.value, ast.Name):
            return _function(project, module, inner.value)
    return None


def _text(node: ast.expr, module: ModuleInfo) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    made = module.globals.get(last_name(node))
    return str(made.value) if isinstance(made, ast.Constant) else ast.unparse(node)


def _written(function: FunctionInfo) -> dict[str, tuple[ast.expr, ast.expr]]:
    """Return the keys that a node returns, each with where and what."""
    keys: dict[str, tuple[ast.expr, ast.expr]] = {}
    assigned = {
        node.targets[0].id: node.value
        for node in ast.walk(function.node)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in _own(function.node):
        if not isinstance(node, ast.Return) or node.value is None:
            continue
        value: ast.expr = node.value
        if isinstance(value, ast.Name):
            value = assigned.get(value.id, value)
        if isinstance(value, ast.Call) and last_name(value.func) == "Command":
            value = next((k.value for k in value.keywords if k.arg == "update"), value)
        if isinstance(value, ast.Dict):
            for key, each in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    keys[str(key.value)] = (key, each)
    return keys


def _own(function: FunctionNode) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions inside of it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, FunctionNode | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _fields(project: Project, state: ClassInfo) -> dict[str, tuple[ast.expr, ModuleInfo]]:
    fields: dict[str, tuple[ast.expr, ModuleInfo]] = {}
    for base in state.bases:
        parent = project.class_named(base, state.module)
        if parent is not None and parent is not state:
            fields |= _fields(project, parent)
        elif base.split(".")[-1] == "MessagesState":
            fields["messages"] = (
                ast.parse("Annotated[list, add_messages]", mode="eval").body,
                state.module,
            )
    return fields | {name: (each, state.module) for name, each in state.annotations.items()}


def _split(annotation: ast.expr) -> tuple[str, ast.expr | None]:
    """Return the type and the reducer of a field."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return "", None
    if isinstance(annotation, ast.Subscript) and last_name(annotation.value) in (
        "NotRequired",
        "Required",
    ):
        return _split(annotation.slice)
    if isinstance(annotation, ast.Subscript) and last_name(annotation.value) == "Annotated":
        parts = (
            annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        )
        reducers = [
            p for p in parts[1:] if isinstance(p, ast.Lambda | ast.Name | ast.Attribute | ast.Call)
        ]
        reducers = [
            p
            for p in reducers
            if last_name(p) not in ("UntrackedValue", "EphemeralValue")
            and not (isinstance(p, ast.Call) and last_name(p.func) in ("Field", "Doc"))
        ]
        return ast.unparse(parts[0]), reducers[-1] if reducers else None
    return ast.unparse(annotation), None


def _judge(project: Project, module: ModuleInfo, graph: _Graph) -> Iterator[Finding]:
    if graph.state is None:
        return
    fields = _fields(project, graph.state)
    written = {name: _written(function) for name, function in graph.nodes.items()}
    parallel = _parallel(graph)
    said: set[str] = set()
    for names in parallel:
        for key, (annotation, _) in fields.items():
            writers = sorted(name for name in names if key in written.get(name, {}))
            alone = len(names) == 1 and writers
            if key in said or not (len(writers) > 1 or alone):
                continue
            kind, reducer = _split(annotation)
            who = writers[0] if alone else " and ".join(writers)
            at, function = written[writers[-1]][key][0], graph.nodes[writers[-1]]
            many = (
                f"{who} runs several times at once and writes"
                if alone
                else f"{who} run in the same step and each writes"
            )
            if reducer is None:
                said.add(key)
                yield _finding(
                    function,
                    at,
                    key,
                    graph.state,
                    f"{many} {key!r}, which has no reducer",
                    "LangGraph refuses two values in one step (InvalidUpdateError); where it doesn't, one of them is lost.",
                    f"{key}: Annotated[{kind}, operator.add] (lists), or a reducer that merges; or one key for each node.",
                )
            elif _drops(project, graph.state.module, reducer):
                said.add(key)
                yield _finding(
                    function,
                    at,
                    key,
                    graph.state,
                    f"{many} {key!r}, of which the reducer keeps the last value only",
                    "The reducer ignores what was there, so all but one of the parallel results are lost.",
                    f"A reducer for {key!r} that merges both arguments, or one key for each node.",
                )
    yield from _laws(project, graph, fields, written)


def _laws(
    project: Project,
    graph: _Graph,
    fields: dict[str, tuple[ast.expr, ModuleInfo]],
    written: dict[str, dict[str, tuple[ast.expr, ast.expr]]],
) -> Iterator[Finding]:
    assert graph.state is not None
    for key, (annotation, owner) in fields.items():
        kind, reducer = _split(annotation)
        if reducer is None or graph.state.annotations.get(key) is not annotation:
            continue
        name = ast.unparse(reducer)
        where = FunctionInfo(_nothing(), owner, graph.state, graph.state.name)
        if (
            (name in _ADD and _OTHERS.match(kind))
            or (name.endswith("or_") and _LISTS.match(kind))
            or (name == "add_messages" and (_OTHERS.match(kind) or kind in ("str", "int")))
        ):
            yield _finding(
                where,
                annotation,
                key,
                graph.state,
                f"The reducer {name} does not fit {key!r}, a {kind}",
                "The second write of the key fails, or its result is of another type.",
                "operator.or_ for dict and set, operator.add for lists, add_messages for messages.",
            )
        elif name in ("operator.sub", "operator.truediv", "operator.floordiv", "operator.pow"):
            yield _finding(
                where,
                annotation,
                key,
                graph.state,
                f"The reducer {name} of {key!r} depends on order",
                "Parallel writes arrive in any order, and this reducer is not associative.",
                "Contributions that can be added in any order (negative numbers with operator.add).",
            )
        elif _mutates(project, owner, reducer):
            yield _finding(
                where,
                annotation,
                key,
                graph.state,
                f"The reducer {name} of {key!r} changes its first argument",
                "The old state, which checkpoints and other branches still hold, changes with it.",
                "Return a new value: left + right, {**left, **right}.",
            )
        if name in _ADD and _LISTS.match(kind):
            for node, keys in written.items():
                if key in keys and _doubles(graph.nodes[node], key, keys[key][1]):
                    yield _finding(
                        graph.nodes[node],
                        keys[key][0],
                        key,
                        graph.state,
                        f"{node} returns all of {key!r} and the reducer {name} adds it again",
                        "The reducer appends what a node returns, so everything that was there is doubled.",
                        f"Return the new elements only: {{{key!r}: [new]}}.",
                    )


def _nothing() -> FunctionNode:
    """Return a function that stands for a class."""
    (node,) = ast.parse("def state(): ...").body
    assert isinstance(node, FunctionNode)
    return node


def _parallel(graph: _Graph) -> list[set[str]]:
    """Return sets of nodes that run in one step."""
    groups = [{each} for each in graph.fanned]
    groups += [each for each in graph.together if len(each) > 1]
    for targets in list(graph.edges.values()):
        plain = list(dict.fromkeys(each for each in targets if not each.startswith("?")))
        layer = {each for each in plain if each != "__end__" and each != "END"}
        seen: set[str] = set()
        while len(layer) > 1:
            groups.append(set(layer))
            seen |= layer
            layer = {
                n
                for each in layer
                for n in graph.edges.get(each, [])
                if not n.startswith("?") and n != "END"
            } - seen
    return groups


def _reducer(
    project: Project, module: ModuleInfo, node: ast.expr
) -> tuple[list[str], list[ast.stmt] | ast.expr] | None:
    if isinstance(node, ast.Lambda):
        return [each.arg for each in node.args.args], node.body
    found = project.function_named(last_name(node), module) if last_name(node) else None
    return ([each.arg for each in found.parameters], found.node.body) if found is not None else None


def _drops(project: Project, module: ModuleInfo, node: ast.expr) -> bool:
    found = _reducer(project, module, node)
    if found is None or len(found[0]) < 2:
        return False
    body = found[1] if isinstance(found[1], list) else [found[1]]
    used = {n.id for each in body for n in ast.walk(each) if isinstance(n, ast.Name)}
    return found[0][0] not in used or found[0][1] not in used


def _mutates(project: Project, module: ModuleInfo, node: ast.expr) -> bool:
    found = _reducer(project, module, node)
    if found is None or len(found[0]) < 2 or not isinstance(found[1], list):
        return False
    first = found[0][0]
    rebound = any(
        isinstance(n, ast.Assign) and last_name(n.targets[0]) == first
        for each in found[1]
        for n in ast.walk(each)
    )
    return not rebound and any(
        isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and last_name(n.func.value) == first
        and n.func.attr in {"append", "extend", "update", "add", "insert"}
        for each in found[1]
        for n in ast.walk(each)
    )


def _doubles(function: FunctionInfo, key: str, value: ast.expr) -> bool:
    """Say whether a returned value holds the whole list that was there."""
    state = function.parameters[0].arg if function.parameters else "state"
    if function.cls is not None and len(function.parameters) > 1:
        state = function.parameters[1].arg

    def whole(node: ast.expr) -> bool:
        if isinstance(node, ast.Subscript):
            return (
                last_name(node.value) == state
                and isinstance(node.slice, ast.Constant)
                and node.slice.value == key
            )
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("get", "copy")
        ):
            inner = node.func.value
            given = node.args[0] if node.args else None
            named = isinstance(given, ast.Constant) and given.value == key
            return last_name(inner) == state and named if node.func.attr == "get" else whole(inner)
        if isinstance(node, ast.BoolOp):
            return whole(node.values[0])
        if isinstance(node, ast.Call) and last_name(node.func) == "list" and node.args:
            return whole(node.args[0])
        if isinstance(node, ast.Name):
            found = [
                n.value
                for n in ast.walk(function.node)
                if isinstance(n, ast.Assign)
                and len(n.targets) == 1
                and last_name(n.targets[0]) == node.id
                and isinstance(n.targets[0], ast.Name)
            ]
            return len(found) == 1 and whole(found[0])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return whole(node.left) or whole(node.right)
        if isinstance(node, ast.List):
            return any(isinstance(each, ast.Starred) and whole(each.value) for each in node.elts)
        return False

    return whole(value)


def _finding(
    function: FunctionInfo,
    node: ast.AST,
    key: str,
    state: ClassInfo,
    message: str,
    why: str,
    fix: str,
) -> Finding:
    site = Site(
        function.module.path,
        getattr(node, "lineno", 1),
        getattr(node, "col_offset", 0) + 1,
        getattr(node, "end_lineno", 1) or 1,
        (getattr(node, "end_col_offset", 0) or 0) + 1,
        function.qualname,
    )
    steps = [Step(site, f"writes {key}")]
    if key in state.annotations:
        at = state.annotations[key]
        declared = Site(
            state.module.path,
            at.lineno,
            at.col_offset + 1,
            at.end_lineno or at.lineno,
            (at.end_col_offset or 0) + 1,
            state.name,
        )
        steps.insert(0, Step(declared, f"declares {key}"))
    return Finding("graph-state", "error", message, why, fix, site, None, steps, function.qualname)
