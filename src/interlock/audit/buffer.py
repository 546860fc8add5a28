"""Write-behind: what a class accepts into a buffer, and only a timer or the exit writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from interlock.audit.finding import Finding, Step
from interlock.audit.project import ClassInfo, FunctionInfo, ModuleInfo, last_name
from interlock.audit.value import Site

_EMPTY = {"list", "dict", "deque", "set", "defaultdict", "OrderedDict", "Queue", "SimpleQueue"}
_GROWS = {"append", "extend", "add", "appendleft", "update", "insert", "setdefault", "put_nowait"}
_WRITES = re.compile(
    r"(?i)^_?a?(save|write|writelines|put|insert|upsert|store|persist|execute|executemany|set|hset|rpush|update|dump|send|post|commit|bulk\w*|"
    r"add_all|add_documents|upload|publish|process\w*|insert_many|put_many|write_text|flush_to\w*|store_\w+|save_\w+|write_\w+|insert_\w+|update_\w+|persist_\w+)$"
)
_HARMLESS = re.compile(
    r"(?i)log|metric|telemetry|trac(e|ing)|progress|span|stats|analytics|usage|monitor|console|audio|video|render|display|stream|token"
)


def buffer_findings(module: ModuleInfo) -> Iterator[Finding]:
    """Yield the buffers of a module's classes that a crash would lose."""
    if not re.search(
        r"atexit|Timer\(|sleep\(|call_later|add_job|__del__|\.wait\(|schedule", module.source
    ):
        return
    for cls in module.classes.values():
        if not _HARMLESS.search(cls.name):
            yield from _class(cls)


def _class(cls: ClassInfo) -> Iterator[Finding]:
    buffers = _buffers(cls)
    if not buffers:
        return
    deferred = _deferred(cls)
    if not deferred:
        return
    for name in buffers:
        if _HARMLESS.search(name):
            continue
        flushes = [each for each in cls.methods.values() if _flushes(each, name)]
        later = [(each, deferred[each.node.name]) for each in flushes if each.node.name in deferred]
        adds = [
            (each, at)
            for each in cls.methods.values()
            for at in _grows(each, name)
            if each not in flushes
        ]
        if not later or not adds:
            continue
        flush, trigger = later[0]
        method, at = adds[0]
        if _at_once(method, {each.node.name for each in flushes}):
            continue
        written = _writing_call(flush, name) or flush.node
        site = site_of(method, at)
        steps = [
            Step(site, f"accepts into self.{name}"),
            Step(site_of(trigger[0], trigger[1]), f"starts {flush.node.name} later"),
            Step(site_of(flush, written), f"writes self.{name}"),
        ]
        yield Finding(
            "write-behind",
            "warning",
            f"self.{name} is accepted here and written by {flush.qualname} only later ({trigger[2]})",
            "If the process is killed before that, everything in the buffer is lost, although the caller was answered; "
            "and what it writes was decided on data that may have changed since.",
            f"Write before answering (or append to a durable log or queue first); {flush.node.name} may then compact.",
            site,
            None,
            steps,
            method.qualname,
        )
        return


def _buffers(cls: ClassInfo) -> list[str]:
    names = []
    for name, made in cls.attributes.items():
        empty = (
            isinstance(made, ast.List | ast.Dict)
            and not getattr(made, "elts", None)
            and not getattr(made, "keys", None)
        )
        called = isinstance(made, ast.Call) and last_name(made.func) in {*_EMPTY, "field"}
        if empty or called:
            names.append(name)
    return names


def _is(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and last_name(node.value) in ("self", "cls")
    )


def _flushes(method: FunctionInfo, name: str) -> bool:
    """Say whether a method empties a buffer and writes."""
    if method.node.name == "__init__":
        return False
    empties = False
    for node in method.nodes:
        if isinstance(node, ast.Assign):
            targets = [
                t
                for target in node.targets
                for t in (target.elts if isinstance(target, ast.Tuple) else [target])
            ]
            empties |= any(_is(each, name) for each in targets)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and _is(node.func.value, name)
        ):
            empties |= node.func.attr in {"clear", "pop", "popleft", "get_nowait", "popitem"}
    return empties and _writing_call(method, name) is not None


def _writing_call(method: FunctionInfo, name: str) -> ast.Call | None:
    """Return the call of a method that writes what is in a buffer."""
    aliases: set[str] = set()

    def mentions(node: ast.AST) -> bool:
        return any(
            _is(each, name) or (isinstance(each, ast.Name) and each.id in aliases)
            for each in ast.walk(node)
        )

    for _ in range(2):
        for node in method.nodes:
            if isinstance(node, ast.Assign) and mentions(node.value):
                for target in node.targets:
                    aliases |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)} - {
                        "self"
                    }
            elif isinstance(node, ast.For | ast.comprehension | ast.AsyncFor) and mentions(
                node.iter
            ):
                aliases |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
    for node in method.nodes:
        if isinstance(node, ast.Call) and _WRITES.match(last_name(node.func)):
            base = node.func.value if isinstance(node.func, ast.Attribute) else None
            if base is not None and (
                _is(base, name) or (isinstance(base, ast.Name) and base.id in aliases)
            ):
                continue
            if any(mentions(each) for each in [*node.args, *(k.value for k in node.keywords)]):
                return node
    return None


def _grows(method: FunctionInfo, name: str) -> Iterator[ast.AST]:
    if method.node.name == "__init__":
        return
    for node in method.nodes:
        if (
            (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and _is(node.func.value, name)
                and node.func.attr in _GROWS
            )
            or (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Subscript)
                and _is(node.targets[0].value, name)
            )
            or (isinstance(node, ast.AugAssign) and _is(node.target, name))
        ):
            yield node


def _at_once(method: FunctionInfo, flushes: set[str]) -> bool:
    """Say whether a method flushes on every path, or waits until it was."""
    for each in method.node.body:
        for node in (
            ast.walk(each) if not isinstance(each, ast.If | ast.For | ast.While | ast.Try) else ()
        ):
            if (
                isinstance(node, ast.Call)
                and last_name(node.func) in flushes
                and isinstance(node.func, ast.Attribute)
            ):
                return True
    return bool({"set_result", "wait_for", "create_future"} & method.called)


def _deferred(cls: ClassInfo) -> dict[str, tuple[FunctionInfo, ast.AST, str]]:
    """Return the methods that something starts later, each with where and what."""
    found: dict[str, tuple[FunctionInfo, ast.AST, str]] = {}
    for method in cls.methods.values():
        for node in method.nodes:
            if isinstance(node, ast.Call):
                name = last_name(node.func)
                given = [*node.args, *(k.value for k in node.keywords)]
                targets = [
                    last_name(each)
                    for each in given
                    if isinstance(each, ast.Attribute) and last_name(each.value) == "self"
                ]
                if name == "register" and "atexit" in ast.unparse(node.func):
                    found |= {
                        each: (method, node, "at exit") for each in targets if each not in found
                    }
                elif name in {
                    "Timer",
                    "call_later",
                    "add_job",
                    "call_at",
                    "every",
                    "add_periodic_task",
                    "enter",
                    "PeriodicCallback",
                    "add_done_callback",
                    "signal",
                }:
                    found |= dict.fromkeys(targets, (method, node, "by a timer"))
            elif isinstance(node, ast.While | ast.AsyncFor | ast.For):
                called = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
                names = {last_name(n.func) for n in called}
                if (
                    isinstance(node, ast.While)
                    and names & {"sleep", "wait", "wait_for"}
                    and not isinstance(node.test, ast.Compare)
                ):
                    found |= {
                        last_name(n.func): (method, node, "by a loop that sleeps")
                        for n in called
                        if isinstance(n.func, ast.Attribute) and last_name(n.func.value) == "self"
                    }
                    found.setdefault(method.node.name, (method, node, "by a loop that sleeps"))
            elif method.node.name == "__del__" and isinstance(node, ast.FunctionDef):
                found |= {
                    last_name(n.func): (method, n, "when it is collected")
                    for n in method.nodes
                    if isinstance(n, ast.Call)
                }
            elif (
                isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node is not method.node
            ):
                continue
    more = dict(found)
    for name, (method, node, how) in more.items():
        target = cls.methods.get(name)
        for each in target.called if target else ():
            if each in cls.methods:
                found.setdefault(each, (method, node, how))
    return found


def site_of(function: FunctionInfo, node: ast.AST) -> Site:
    """Return the place of a node of a function."""
    line = getattr(node, "lineno", 1)
    single = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.While)
    end = line if single else getattr(node, "end_lineno", line) or line
    return Site(
        function.module.path,
        line,
        getattr(node, "col_offset", 0) + 1,
        end,
        1 if single else (getattr(node, "end_col_offset", 0) or 0) + 1,
        function.qualname,
    )
