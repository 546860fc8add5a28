"""Copies: what a class loads, keeps and saves whole on each change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from interlock.audit.buffer import site_of
from interlock.audit.finding import Finding, Step
from interlock.audit.locks import LOCK
from interlock.audit.project import ClassInfo, FunctionInfo, ModuleInfo, last_name

_LOADS = re.compile(
    r"(?i)^_?a?(loads?|safe_load|full_load|read|load_\w+|read_\w+|parse_raw|model_validate_json|hgetall|get_item|get_object|find_one)$"
)
_SAVES = re.compile(
    r"(?i)^_?a?(dump|safe_dump|json_dump|dump_\w+|write|writelines|write_\w+|atomic_\w+|save|save_\w+|savez|to_csv|to_json|to_parquet|"
    r"set|setex|hset|hmset|put|put_item|put_object|upsert_item|replace_item|update_item|replace_one|update_one)$"
)
_CHANGES = re.compile(
    r"^(append|extend|add|insert|update|pop|remove|discard|setdefault|clear|popitem|appendleft|popleft|drop|upsert|delete|push|put)(_\w+)?$"
)
_ALL = re.compile(
    r"^(items|values|copy|(model_)?dump(_json)?|model_dump_json|to_\w+|dict|json|as_dict|serialize\w*)$"
)
_HARMLESS = re.compile(
    r"(?i)cache|config|setting|preference|log(ger)?$|metric|telemetry|stats$|progress|recorder"
)


def copy_findings(module: ModuleInfo) -> Iterator[Finding]:
    """Yield the changes of a kept copy after which all of it is saved over what others saved."""
    if module.is_script and not module.concurrent:
        return
    for cls in module.classes.values():
        if not _HARMLESS.search(cls.name):
            seen: set[str] = set()
            for name in sorted(_kept(cls)):
                for finding in _Copy(cls, name).findings() if not _HARMLESS.search(name) else ():
                    if finding.function not in seen:
                        seen.add(finding.function)
                        yield finding


def _kept(cls: ClassInfo) -> set[str]:
    """Return the attributes of a class that are saved somewhere and changed somewhere."""
    return {
        node.attr
        for method in cls.methods.values()
        for node in method.nodes
        if isinstance(node, ast.Attribute) and _own(node)
    } - set(cls.methods)


class _Copy:
    """One attribute of a class, and the methods that load, change and save it."""

    def __init__(self, cls: ClassInfo, name: str) -> None:
        self.cls = cls
        self.name = name
        methods = list(cls.methods.values())
        self.saves = {m.node.name: call for m in methods if (call := self._saving(m)) is not None}
        self.loads: dict[str, ast.AST] = {}
        if self.saves:
            sources = {m.node.name for m in methods if any(map(_LOADS.match, m.called))}
            self.loads = {
                m.node.name: at for m in methods if (at := self._loading(m, sources)) is not None
            }

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for each method that changes the copy and saves it."""
        if not self.loads or not self._same_place():
            return
        started = self._reached(_STARTS) & set(self.loads)
        lazy = {each for each in self.loads if self._is_lazy(self.cls.methods[each])}
        load = min(started | lazy or self.loads)
        changes = []
        for method in self.cls.methods.values():
            change = self._change(method)
            if method.node.name in _STARTS | set(self.loads) or change is None:
                continue
            changes.append((method, change))
        saved = False
        for method, change in changes:
            save = min(self._reached({method.node.name}) & set(self.saves), default="")
            saved |= bool(save)
            if save and not self._is_held(method):
                yield self._finding(method, change, load, save)
        if changes and started and not saved:
            for save, call in self.saves.items():
                method = self.cls.methods[save]
                if save not in started and not self._is_held(method):
                    yield self._finding(method, call, load, save, changes[0])

    def _is_held(self, method: FunctionInfo) -> bool:
        """Say whether a method runs under a lock: its own, or one that all who call it hold."""
        name = method.node.name
        callers = [m for m in self.cls.methods.values() if name in _own_calls(m.node)]
        return _is_locked(method) or (bool(callers) and all(map(_is_locked, callers)))

    def _finding(
        self,
        method: FunctionInfo,
        at: ast.AST,
        load: str,
        save: str,
        change: tuple[FunctionInfo, ast.AST] | None = None,
    ) -> Finding:
        source, target = self.cls.methods[load], self.cls.methods[save]
        site = site_of(method, at)
        steps = [
            Step(site_of(source, self.loads[load]), f"loads self.{self.name}"),
            Step(site_of(*change) if change else site, f"changes self.{self.name}"),
            Step(site_of(target, self.saves[save]), f"saves all of self.{self.name}"),
        ]
        changed = change[0].qualname if change else "here"
        return Finding(
            "lost-update",
            "warning",
            f"self.{self.name} was loaded by {source.qualname}, is changed ({changed}) and saved whole by {target.qualname}",
            "What another process or another object saves between the load and this save is not in the copy, so saving it destroys that.",
            "Under one lock that all writers take, load again, change and save; or a record for each entry (a row, a file, a line of JSON). "
            "interlock.guards.file(path).update(change) does the first.",
            site,
            steps[0].site,
            steps,
            method.qualname,
        )

    # What methods do with the attribute.

    def _mentions(self, node: ast.AST, aliases: set[str]) -> bool:
        return any(
            (isinstance(each, ast.Attribute) and each.attr == self.name and _own(each))
            or (isinstance(each, ast.Name) and each.id in aliases)
            for each in ast.walk(node)
        )

    def _saving(self, method: FunctionInfo) -> ast.Call | None:
        """Return the call by which a method saves all of the attribute."""
        aliases: set[str] = set()
        for _ in range(2):
            for node in method.nodes:
                if isinstance(node, ast.Assign) and self._whole(node.value, aliases):
                    aliases |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        for node in method.nodes:
            if isinstance(node, ast.Call) and _SAVES.match(last_name(node.func)):
                if (
                    isinstance(node.func, ast.Name)
                    and "_" not in node.func.id
                    and node.func.id != "dump"
                ):
                    continue
                given = [*node.args, *(each.value for each in node.keywords)]
                if any(self._whole(each, aliases) for each in given):
                    return node
        return None

    def _whole(self, node: ast.AST, aliases: set[str]) -> bool:
        """Say whether an expression has all of the attribute in it, not one element."""
        if isinstance(node, ast.Subscript):
            return False
        if isinstance(node, ast.Call) and last_name(node.func) in ("get", "pop", "len"):
            return False
        if isinstance(node, ast.Attribute) and not _own(node):
            return bool(_ALL.match(node.attr)) and self._whole(node.value, aliases)
        if isinstance(node, ast.Name):
            return node.id in aliases
        if isinstance(node, ast.Attribute):
            return node.attr == self.name
        return any(self._whole(each, aliases) for each in ast.iter_child_nodes(node))

    def _loading(self, method: FunctionInfo, sources: set[str]) -> ast.AST | None:
        """Return where a method fills the attribute with what it loads."""
        loaded: set[str] = set()

        def comes(node: ast.AST) -> bool:
            return any(
                (isinstance(each, ast.Name) and each.id in loaded and not _HARMLESS.search(each.id))
                or (
                    isinstance(each, ast.Call)
                    and (
                        _LOADS.match(last_name(each.func))
                        or _is_get(each)
                        or (
                            isinstance(each.func, ast.Attribute)
                            and _own(each.func)
                            and each.func.attr in sources
                        )
                    )
                )
                for each in ast.walk(node)
            )

        for _ in range(2):
            for node in method.nodes:
                if (
                    isinstance(node, ast.Assign | ast.AnnAssign)
                    and node.value
                    and comes(node.value)
                ):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    for target in targets:
                        if self._fills(target):
                            return node
                        loaded |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
                elif isinstance(node, ast.For) and comes(node.iter):
                    loaded |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
                elif (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("update", "append", "extend")
                    and self._fills(node.func.value)
                    and any(comes(each) for each in node.args)
                ):
                    return node
        return None

    def _fills(self, target: ast.AST) -> bool:
        base = target.value if isinstance(target, ast.Subscript) else target
        return isinstance(base, ast.Attribute) and base.attr == self.name and _own(base)

    def _change(self, method: FunctionInfo) -> ast.AST | None:
        """Return where a method changes the attribute, and keeps what else is in it."""
        elements: set[str] = set()
        for node in method.nodes:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if isinstance(target, ast.Name) and self._element(node.value):
                    elements.add(target.id)
            elif isinstance(node, ast.For) and self._mentions(node.iter, set()):
                elements |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        for node in method.nodes:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign | ast.Delete):
                targets = node.targets
            elif isinstance(node, ast.AugAssign):
                targets = [node.target]
                if self._fills(node.target):
                    return node
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and _CHANGES.match(node.func.attr)
                and _inside(node.func.value, self.name, elements)
            ):
                return node
            for target in targets:
                if isinstance(target, ast.Subscript | ast.Attribute) and _inside(
                    target.value, self.name, elements
                ):
                    return node
                if (
                    isinstance(node, ast.Assign)
                    and self._fills(target)
                    and self._mentions(node.value, set())
                ):
                    return node
        return None

    def _element(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call) and last_name(node.func) in ("get", "setdefault", "next"):
            return self._mentions(node, set())
        return isinstance(node, ast.Subscript) and self._fills(node)

    # Which methods lead to which.

    def _reached(self, names: set[str]) -> set[str]:
        waiting, seen = list(names), set(names)
        while waiting:
            method = self.cls.methods.get(waiting.pop())
            for each in _own_calls(method.node) if method else ():
                if each in self.cls.methods and each not in seen:
                    seen.add(each)
                    waiting.append(each)
        return seen

    def _is_lazy(self, method: FunctionInfo) -> bool:
        """Say whether a method loads only if nothing was loaded."""
        return any(
            isinstance(node, ast.If)
            and any(
                isinstance(each, ast.Attribute)
                and _own(each)
                and (each.attr == self.name or re.search("load|init|ready", each.attr))
                for each in ast.walk(node.test)
            )
            for node in method.nodes
        )

    def _same_place(self) -> bool:
        """Say whether a load and a save name the same path, key or client."""
        loaded, saved = (
            {
                name
                for each in self._reached(set(names)) & set(self.cls.methods)
                for name in _names(self.cls.methods[each])
            }
            for names in (self.loads, self.saves)
        )
        return bool((loaded & saved) - {self.name})


_STARTS = {"__init__", "__post_init__", "__enter__", "__aenter__", "model_post_init"}


def _is_get(node: ast.Call) -> bool:
    """Say whether a call reads one document: `self._document.get()`."""
    return (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "read_item")
        and isinstance(node.func.value, ast.Attribute)
        and bool(re.search(r"(?i)doc|container|redis|client|store|db$|table", node.func.value.attr))
    )


def _own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _names(method: FunctionInfo) -> set[str]:
    """Return the attributes, the constants and the texts of files that a method uses."""
    found: set[str] = set()
    called = {id(node.func) for node in method.nodes if isinstance(node, ast.Call)}
    for node in method.nodes:
        if isinstance(node, ast.Attribute) and _own(node) and id(node) not in called:
            found.add(node.attr)
        elif isinstance(node, ast.Name) and node.id.isupper():
            found.add(node.id)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"\w\.\w{2,5}$", node.value)
        ):
            found.add(node.value)
    return {each for each in found if each != "logger"}


def _own_calls(node: ast.AST) -> Iterator[str]:
    """Yield the methods of its own that a method calls."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute) and _own(each.func):
            yield each.func.attr


def _inside(node: ast.AST, name: str, elements: set[str]) -> bool:
    """Say whether an expression is the attribute, or something in it."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute) and node.attr == name and _own(node):
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in elements


def _is_locked(method: FunctionInfo) -> bool:
    """Say whether a method holds a lock: then one object is taken to be the only owner."""
    if method.safe:
        return True
    return any(
        LOCK.search(ast.unparse(item.context_expr))
        for node in method.nodes
        if isinstance(node, ast.With | ast.AsyncWith)
        for item in node.items
    )
