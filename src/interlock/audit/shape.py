"""The shape of code: loops that try again, branches that end, names that others change meanwhile."""

from __future__ import annotations

import ast
import re

from interlock.audit.expression import SESSION
from interlock.audit.project import FunctionInfo, ModuleInfo
from interlock.audit.value import Read, Value


def is_retry(node: ast.While | ast.For | ast.AsyncFor) -> bool:
    """Say whether a loop tries something again when it fails."""
    for each in node.body:
        inner = each.body if isinstance(each, ast.With | ast.AsyncWith) else [each]
        for statement in inner:
            if isinstance(statement, ast.Try) and statement.handlers:
                goes_on = any(not _leaves(handler.body) for handler in statement.handlers)
                done = any(isinstance(n, ast.Return | ast.Break) for n in ast.walk(node))
                named = isinstance(node, ast.While) or re.search(
                    r"(?i)attempt|retr|tries|range\(",
                    ast.unparse(node.iter) + ast.unparse(node.target),
                )
                if goes_on and done and named:
                    return True
    return False


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Raise | ast.Return | ast.Break)


def ends(body: list[ast.stmt]) -> bool:
    """Say whether a branch leaves what it is in."""
    return bool(body) and isinstance(body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break)


_RESULTS: dict[int, tuple[list[ast.stmt], frozenset[str]]] = {}


def results(body: list[ast.stmt]) -> frozenset[str]:
    """Return the variables that a branch returns or computes with."""
    known = _RESULTS.get(id(body))
    if known is None or known[0] is not body:
        names = frozenset(
            node.id
            for each in body
            if isinstance(each, ast.Return | ast.Assign)
            for node in ast.walk(each)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        )
        known = _RESULTS[id(body)] = (body, names)
    return known[1]


def compares(test: ast.expr) -> bool:
    """Say whether a test compares with something other than None."""
    return any(
        isinstance(node, ast.Compare)
        and not any(
            isinstance(each, ast.Constant) and each.value is None for each in node.comparators
        )
        for node in ast.walk(test)
    )


def as_load(node: ast.expr) -> ast.expr:
    """Return the expression that reads what a target writes."""
    if isinstance(node, ast.Name):
        return ast.copy_location(ast.Name(node.id, ast.Load()), node)
    if isinstance(node, ast.Attribute):
        return ast.copy_location(ast.Attribute(node.value, node.attr, ast.Load()), node)
    if isinstance(node, ast.Subscript):
        return ast.copy_location(ast.Subscript(node.value, node.slice, ast.Load()), node)
    return node


def shared_names(function: FunctionInfo) -> frozenset[str]:
    """Return the attributes and globals that a function changes and that others may, meanwhile."""
    threaded = function.node.name in function.module.thread_targets
    if function.node.name == "__init__" or not (function.is_async or threaded):
        return frozenset()
    names: set[str] = set()
    for node in function.nodes:
        if isinstance(node, ast.Global):
            names |= set(node.names)
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        for target in targets:
            base = target.value if isinstance(target, ast.Subscript) else target
            if (
                isinstance(base, ast.Attribute)
                and isinstance(base.value, ast.Name)
                and base.value.id == "self"
                and function.cls
            ):
                names.add(f"self.{base.attr}")
            elif isinstance(target, ast.Subscript) and SESSION.search(ast.unparse(base)):
                names.add(ast.unparse(base))
            elif (
                isinstance(target, ast.Subscript)
                and isinstance(base, ast.Name)
                and base.id in function.module.globals
            ):
                names.add(base.id)
    return frozenset(names)


def expires(call: ast.Call, dotted: str, module: ModuleInfo) -> bool:
    """Say whether a lock is a lease of a few seconds in a store."""
    distributed = re.search(
        r"(?i)redis|redlock|lease|cache|etcd|distributed", ast.unparse(call.func)
    )
    if not distributed and not (
        dotted.split(".")[-1] == "lock" and any("redis" in each for each in module.imported)
    ):
        return False
    limits = {
        "timeout",
        "ttl",
        "expire",
        "ex",
        "lease",
        "lock_timeout",
        "expiration",
        "lease_time",
        "px",
    }
    return any(
        each.arg in limits
        and not (isinstance(each.value, ast.Constant) and each.value.value is None)
        for each in call.keywords
    )


def answers(body: list[ast.stmt], env: dict[str, Value]) -> frozenset[Read]:
    """Return the reads whose data a branch returns or uses as its result."""
    values = (env[name] for name in results(body) if name in env)
    return frozenset(flow.read for value in values for flow in value.flows)
