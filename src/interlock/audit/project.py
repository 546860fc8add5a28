"""The files that are read: modules, classes and functions, and what a name in them stands for."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_MODEL_BASES = re.compile(
    r"(^|\.)(Base|Model|SQLModel|Document|Entity|DeclarativeBase)$|Model$|Base$|Document$"
)
_NOT_MODEL_BASES = re.compile(r"BaseModel$|BaseSettings$|ABC$|Protocol$")
_DOCUMENTS = {"beanie", "mongoengine", "odmantic"}
_CONCURRENT = re.compile(
    r"\b(threading|asyncio|concurrent\.futures|multiprocessing|fastapi|flask|django|celery|aiohttp|starlette|"
    r"uvicorn|gunicorn|trio|anyio|Thread|ThreadPoolExecutor|gather|create_task)\b"
)


@dataclass(eq=False)
class FunctionInfo:
    """A function, a method or a function inside of one."""

    node: FunctionNode
    module: ModuleInfo
    cls: ClassInfo | None
    qualname: str
    safe: str = ""  # what makes all of it safe: a decorator, a transaction that calls it

    @cached_property
    def is_async(self) -> bool:
        """Whether it may be suspended."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @cached_property
    def parameters(self) -> list[ast.arg]:
        """The parameters that may be given by position."""
        return [*self.node.args.posonlyargs, *self.node.args.args]

    @cached_property
    def is_static(self) -> bool:
        """Whether its first parameter is not the object."""
        names = {ast.unparse(each).split(".")[-1] for each in self.node.decorator_list}
        return self.cls is None or "staticmethod" in names

    @cached_property
    def is_property(self) -> bool:
        """Whether reading an attribute calls it."""
        names = {ast.unparse(each).split(".")[-1] for each in self.node.decorator_list}
        return bool(names & {"property", "cached_property"})

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in it."""
        return list(ast.walk(self.node))

    @cached_property
    def called(self) -> frozenset[str]:
        """The last names of what it calls."""
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        names = {last_name((unwrapped(node) or node).func) for node in calls}
        return frozenset(names - {""})

    @cached_property
    def is_stub(self) -> bool:
        """Whether it has no body of its own: an abstract method, a protocol."""
        body = [
            each
            for each in self.node.body
            if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            and not isinstance(each, ast.Pass | ast.Raise)
        ]
        return not body


@dataclass(eq=False)
class ClassInfo:
    """A class: its methods, its bases, what its attributes are made of."""

    node: ast.ClassDef
    module: ModuleInfo
    methods: dict[str, FunctionInfo] = field(default_factory=dict)
    attributes: dict[str, ast.expr] = field(default_factory=dict)  # what is assigned
    annotations: dict[str, ast.expr] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @cached_property
    def bases(self) -> list[str]:
        """The last names of its bases."""
        return [
            ast.unparse(each.value if isinstance(each, ast.Subscript) else each)
            for each in self.node.bases
        ]

    @cached_property
    def text(self) -> str:
        """Its source."""
        return "\n".join(self.module.lines[self.node.lineno - 1 : self.node.end_lineno])

    @cached_property
    def is_model(self) -> bool:
        """Whether its objects are rows of a database."""
        if re.search(r"\bmodels\.(\w+Field|ForeignKey)\(", self.text):
            return True
        if any(each.arg == "table" for each in self.node.keywords):
            return True
        if self.bases and "Document" in self.bases and _DOCUMENTS & self.module.roots:
            return True
        if any(_NOT_MODEL_BASES.search(each) for each in self.bases):
            return False
        if "__tablename__" in self.text or "mapped_column(" in self.text or "Column(" in self.text:
            return True
        return any(_MODEL_BASES.search(each) for each in self.bases) and bool(
            re.search(r"\b(models\.\w+Field|\w+Field\(|fields\.\w+Field|Indexed)", self.text)
        )

    @cached_property
    def columns(self) -> list[str]:
        """The names of what is written in its body."""
        return [
            last_name(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
            for node in self.node.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
        ]

    @cached_property
    def versioned(self) -> bool:
        """Whether the mapper compares a version by itself."""
        return "version_id_col" in self.text


@dataclass(eq=False)
class ModuleInfo:
    """One file."""

    path: str
    name: str
    tree: ast.Module
    source: str
    imports: dict[str, str] = field(default_factory=dict)
    functions: dict[str, FunctionInfo] = field(default_factory=dict)
    classes: dict[str, ClassInfo] = field(default_factory=dict)
    globals: dict[str, ast.expr] = field(default_factory=dict)
    all_functions: list[FunctionInfo] = field(default_factory=list)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.source.splitlines()

    @cached_property
    def imported(self) -> frozenset[str]:
        """The dotted names of what it imports."""
        return frozenset(self.imports.values())

    @cached_property
    def roots(self) -> frozenset[str]:
        """The first names of what it imports."""
        return frozenset(each.split(".")[0] for each in self.imported)

    @cached_property
    def concurrent(self) -> bool:
        """Whether it shows that several things happen at once."""
        return bool(_CONCURRENT.search(self.source))

    @cached_property
    def is_script(self) -> bool:
        """Whether it is started by hand, so that one process at a time is likely."""
        return (
            "__main__" in self.source
            or "argparse" in self.source
            or "click" in self.imports
            or "typer" in self.imports
        )

    @cached_property
    def serializable(self) -> bool:
        """Whether its transactions are serializable."""
        return bool(
            re.search(
                r"[\"']SERIALIZABLE[\"']|Serializable\b|ISOLATION_LEVEL_SERIALIZABLE", self.source
            )
        )

    @cached_property
    def thread_targets(self) -> frozenset[str]:
        """The last names of functions that are run by threads."""
        return frozenset(_thread_targets(self.tree))


def _thread_targets(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = last_name(node.func)
        given: list[ast.expr] = []
        if name in {"Thread", "Process"}:
            given = [each.value for each in node.keywords if each.arg == "target"]
        elif name in {
            "submit",
            "to_thread",
            "apply_async",
            "start_new_thread",
            "imap_unordered",
        } or (name == "map" and "executor" in ast.unparse(node.func).lower()):
            given = node.args[:1]
        elif name == "run_in_executor":
            given = node.args[1:2]
        for each in given:
            if isinstance(each, ast.Name) or (
                isinstance(each, ast.Attribute) and last_name(each.value) in ("self", "cls")
            ):
                yield last_name(each)


_ELSEWHERE = {"to_thread": 0, "run_sync": 0, "run_in_threadpool": 0, "run_in_executor": 1}


def unwrapped(node: ast.Call) -> ast.Call | None:
    """Return the call that a call lets a thread do: `to_thread(f, x)` is `f(x)`."""
    if isinstance(node.func, ast.Call) and last_name(node.func.func) in (
        "sync_to_async",
        "database_sync_to_async",
        "async_to_sync",
    ):
        function, args = next(iter(node.func.args), None), node.args
    else:
        at = _ELSEWHERE.get(last_name(node.func))
        if at is None or len(node.args) <= at:
            return None
        function, args = node.args[at], node.args[at + 1 :]
    if isinstance(function, ast.Call) and last_name(function.func) == "partial" and function.args:
        inner = ast.Call(function.args[0], [*function.args[1:], *args], function.keywords)
    elif isinstance(function, ast.Lambda) and isinstance(function.body, ast.Call):
        inner = function.body
    elif isinstance(function, ast.Name | ast.Attribute):
        inner = ast.Call(function, args, node.keywords)
    else:
        return None
    return ast.copy_location(inner, node)


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, or nothing."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


_SQL_TABLE = re.compile(
    r"(?is)CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?[\"`]?(\w+)[\"`]?\s*\((.*?)\)\s*(?:;|\"\"\"|'''|\"|'|WITHOUT)"
)


def _unique_in_sql(columns: str) -> list[frozenset[str]]:
    found = [
        frozenset({name.lower()})
        for name in re.findall(
            r"(?i)[\"`]?(\w+)[\"`]?\s+\w+[^,]*\b(?:UNIQUE|PRIMARY\s+KEY)", columns
        )
    ]
    for listed in re.findall(r"(?i)(?:UNIQUE|PRIMARY\s+KEY)\s*\(([^)]*)\)", columns):
        found.append(frozenset(re.findall(r"\w+", listed.lower())))
    return found


def _unique_sets(cls: ClassInfo) -> list[frozenset[str]]:
    """Return the sets of columns of which a database holds each combination once."""
    if not cls.is_model:
        return []
    found: list[frozenset[str]] = []
    primary: set[str] = set()
    for node in ast.walk(cls.node):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            flags = {
                each.arg
                for each in node.value.keywords
                if isinstance(each.value, ast.Constant) and each.value.value is True
            }
            if isinstance(target, ast.Name) and (
                "unique" in flags or last_name(node.value.func) == "OneToOneField"
            ):
                found.append(frozenset({target.id}))
            if isinstance(target, ast.Name) and flags & {"primary_key", "pk"}:
                primary.add(target.id)
        if isinstance(node, ast.Call) and last_name(node.func) in {
            "UniqueConstraint",
            "Index",
            "PrimaryKeyConstraint",
        }:
            names = [
                n.value
                for n in ast.walk(node)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            if last_name(node.func) != "Index" or any(
                each.arg == "unique" for each in node.keywords
            ):
                found.append(frozenset(names))
        if isinstance(node, ast.Assign) and last_name(node.targets[0]) == "unique_together":
            found.append(
                frozenset(
                    n.value
                    for n in ast.walk(node.value)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                )
            )
    return [*found, frozenset(primary)] if primary else found


class Project:
    """All modules that are read together."""

    def __init__(self) -> None:
        self.modules: list[ModuleInfo] = []
        self.classes: dict[str, list[ClassInfo]] = defaultdict(list)
        self.functions: dict[str, list[FunctionInfo]] = defaultdict(list)
        self.subclasses: dict[str, list[ClassInfo]] = defaultdict(list)
        self.unique: dict[str, list[frozenset[str]]] = defaultdict(list)  # by model or table

    def add(self, path: str, name: str, source: str) -> ModuleInfo:
        """Parse one file.  Raises SyntaxError."""
        module = ModuleInfo(path, name, ast.parse(source), source)
        _Indexer(module).run()
        self.modules.append(module)
        for cls in module.classes.values():
            self.classes[cls.name].append(cls)
            for base in cls.bases:
                self.subclasses[base.split(".")[-1]].append(cls)
            self.unique[cls.name] += _unique_sets(cls)
        for table, columns in _SQL_TABLE.findall(source):
            self.unique[table.lower()] += _unique_in_sql(columns)
        for function in module.functions.values():
            self.functions[function.node.name].append(function)
        return module

    def class_named(self, name: str, module: ModuleInfo) -> ClassInfo | None:
        """Return the class that a name in a module stands for."""
        name = name.split(".")[-1]
        if name in module.classes:
            return module.classes[name]
        found = self.classes.get(name, [])
        if len(found) > 1:
            target = module.imports.get(name, "")
            found = [
                each for each in found if target and target.startswith(each.module.name)
            ] or found
        return found[0] if found and (len(found) == 1 or name in module.imports) else None

    def function_named(self, name: str, module: ModuleInfo) -> FunctionInfo | None:
        """Return the function that a name in a module stands for."""
        if name in module.functions:
            return module.functions[name]
        target = module.imports.get(name)
        if target is None:
            return None
        found = [
            each
            for each in self.functions.get(target.split(".")[-1], [])
            if target.rpartition(".")[0].split(".")[-1] == each.module.name.split(".")[-1]
            or each.module.name.endswith(target.rpartition(".")[0].lstrip("."))
        ]
        return found[0] if found else None

    def method(self, cls: ClassInfo, name: str) -> FunctionInfo | None:
        """Return a method of a class or of its bases; it may be abstract."""
        return self._inherited(cls, name, set()) or self.implementation(cls, name)

    def implementation(self, cls: ClassInfo, name: str) -> FunctionInfo | None:
        """Return the first method of a subclass that is not abstract."""
        for each in self.subclasses.get(cls.name, []):
            if name in each.methods and not each.methods[name].is_stub:
                return each.methods[name]
        return None

    def _inherited(self, cls: ClassInfo, name: str, seen: set[int]) -> FunctionInfo | None:
        if id(cls) in seen:
            return None
        seen.add(id(cls))
        if name in cls.methods:
            return cls.methods[name]
        for base in cls.bases:
            parent = self.class_named(base, cls.module)
            if parent is not None:
                found = self._inherited(parent, name, seen)
                if found is not None:
                    return found
        return None

    def attribute(
        self, cls: ClassInfo, name: str
    ) -> tuple[ClassInfo, ast.expr | None, ast.expr | None] | None:
        """Return what an attribute of a class is made of, and its annotation."""
        waiting, seen = [cls], set()
        while waiting:
            each = waiting.pop(0)
            if id(each) in seen:
                continue
            seen.add(id(each))
            if name in each.attributes or name in each.annotations:
                return each, each.attributes.get(name), each.annotations.get(name)
            for base in each.bases:
                parent = self.class_named(base, each.module)
                if parent is not None:
                    waiting.append(parent)
        return None


class _Indexer:
    """Collects what a module defines."""

    def __init__(self, module: ModuleInfo) -> None:
        self.module = module

    def run(self) -> None:
        """Collect it all."""
        self._body(self.module.tree.body, None, "", top=True)
        transactions = {
            last_name(node.args[0])
            for node in ast.walk(self.module.tree)
            if isinstance(node, ast.Call)
            and node.args
            and last_name(node.func)
            in {"transaction", "run_in_transaction", "with_transaction", "run_transaction"}
        }
        for function in self.module.all_functions:
            decorators = " ".join(ast.unparse(each) for each in function.node.decorator_list)
            if re.search(
                r"(?i)transactional|synchroni[sz]ed|(?<![bc])lock|single_?flight", decorators
            ):
                function.safe = decorators
            elif function.node.name in transactions - {""}:
                function.safe = "transaction"

    def _body(self, body: list[ast.stmt], cls: ClassInfo | None, prefix: str, top: bool) -> None:
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, FunctionNode):
                self._function(node, cls, prefix, top)
            elif isinstance(node, ast.ClassDef):
                self._class(node, prefix)
            elif isinstance(node, ast.Assign) and top:
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.module.globals[target.id] = node.value
            elif isinstance(node, ast.AnnAssign) and top and isinstance(node.target, ast.Name):
                if node.value is not None:
                    self.module.globals[node.target.id] = node.value
            else:
                for name in ("body", "orelse", "finalbody"):
                    inner = getattr(node, name, None)
                    if isinstance(inner, list):
                        self._body(inner, cls, prefix, top)
                for handler in getattr(node, "handlers", []):
                    self._body(handler.body, cls, prefix, top)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for name in node.names:
                self.module.imports[name.asname or name.name.split(".")[0]] = name.name
            return
        for name in node.names:
            source = "." * node.level + (node.module or "")
            self.module.imports[name.asname or name.name] = f"{source}.{name.name}".lstrip(".")

    def _function(self, node: FunctionNode, cls: ClassInfo | None, prefix: str, top: bool) -> None:
        qualname = f"{prefix}{node.name}"
        info = FunctionInfo(node, self.module, cls, qualname)
        self.module.all_functions.append(info)
        if cls is not None and prefix == f"{cls.name}.":
            cls.methods.setdefault(node.name, info)
            self._attributes(cls, info)
        elif top:
            self.module.functions[node.name] = info
        self._body(node.body, cls, f"{qualname}.", top=False)

    def _class(self, node: ast.ClassDef, prefix: str) -> None:
        cls = ClassInfo(node, self.module)
        self.module.classes.setdefault(node.name, cls)
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                cls.annotations[each.target.id] = each.annotation
                if each.value is not None:
                    cls.attributes[each.target.id] = each.value
            elif isinstance(each, ast.Assign):
                for target in each.targets:
                    if isinstance(target, ast.Name):
                        cls.attributes[target.id] = each.value
        self._body(node.body, cls, f"{node.name}.", top=False)

    def _attributes(self, cls: ClassInfo, info: FunctionInfo) -> None:
        annotated = {each.arg: each.annotation for each in info.parameters if each.annotation}
        annotated |= {a.arg: a.annotation for a in info.node.args.kwonlyargs if a.annotation}
        for node in ast.walk(info.node):
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                targets, value = [node.target], node.value
            else:
                continue
            for target in targets:
                if not (
                    isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                ):
                    continue
                empty = isinstance(value, ast.Constant) and value.value is None
                if (not empty or target.attr not in cls.attributes) and (
                    info.node.name == "__init__"
                    or target.attr not in cls.attributes
                    or isinstance(cls.attributes[target.attr], ast.Constant)
                ):
                    cls.attributes[target.attr] = value
                if isinstance(node, ast.AnnAssign):
                    cls.annotations.setdefault(target.attr, node.annotation)
                names = [n.id for n in ast.walk(value) if isinstance(n, ast.Name)]
                for name in names:
                    hint = annotated.get(name)
                    if hint is not None and isinstance(value, ast.Name | ast.BoolOp | ast.IfExp):
                        cls.annotations.setdefault(target.attr, hint)
