"""Expressions: what is known of the value of each."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable

from interlock.audit.project import ClassInfo, FunctionInfo, ModuleInfo, Project, last_name
from interlock.audit.state import State
from interlock.audit.stores import Stores
from interlock.audit.value import NO_MARKS, NOTHING, Flow, Read, Site, Spot, Value, merged

# Calls that return the same thing in another form.
SAME_THING = re.compile(
    r"^(loads?|dumps?|copy|deepcopy|dict|list|set|tuple|str|bytes|bytearray|decode|encode|model_validate(_json)?|model_dump(_json)?|parse_obj|"
    r"parse_raw|from_(dict|json|row|orm)|to_(dict|json)|dict|json|asdict|cast|validate_python|model_copy|model_construct|fetchone|fetchall|first|one|"
    r"one_or_none|scalar_one(_or_none)?|scalar|scalars|all|result|unpackb|packb|safe_load|safe_dump|deserialize\w*|serialize\w*|_?(de)?serialize|"
    r"unwrap|text|read|b64decode|b64encode|compress|decompress|OrderedDict|defaultdict|sorted|values|items|next|iter|int|float|strip|SimpleNamespace|"
    r"setdefault|dump_python|validate_json|unique|mappings)$"
)
MODEL_CALLS = re.compile(
    r"(^|[._])(a?invoke|ainvoke|a?generate(_content|_text)?|a?complete|a?chat|completions?\.create|chat_completion\w*|messages\.create|responses\.create|"
    r"a?predict|llm\w*|call_model|call_llm|ask|embed\w*|kickoff|acompletion|completion|summari[sz]e\w*|think\w*)$"
)
SLOW_CALLS = re.compile(
    r"(^|\.)(sleep|urlopen)$|^(requests|httpx|http|session)\.(get|post|put|patch|delete|request)$"
)
UNIQUE_CALLS = re.compile(
    r"(^|[._])(uuid\d?|uuid4|uuid1|ulid|token_hex|token_urlsafe|urandom|randint|random|choice|time|time_ns|monotonic|perf_counter|"
    r"now|utcnow|getpid|nanoid|generate_id|new_id|ObjectId|get_ident|hex|gen_id|make_id|next_id|uid)$"
)
KEPT_MARKS = frozenset(
    {"unique", "model", "index", "appended", "changed", "arithmetic", "computed"}
)
SESSION = re.compile(r"(^|[._])(session|ctx|context)\.state$")
APPENDING = {"append", "extend", "insert", "appendleft", "add"}
MUTATING = APPENDING | {
    "update",
    "pop",
    "remove",
    "clear",
    "setdefault",
    "popitem",
    "discard",
    "sort",
    "reverse",
    "popleft",
    "add_message",
    "append_message",
}


class Expressions:
    """Evaluates expressions; calls are left to the class that knows stores."""

    project: Project
    stores: Stores
    module: ModuleInfo
    function: FunctionInfo
    state: State
    frames: list[tuple[int, Site]]
    shared: frozenset[str]  # the attributes and globals of which the function is not the only user
    order: itertools.count[int]
    prefix: str

    def site(self, node: ast.AST) -> Site:
        """Return where a node stands."""
        return Site(
            self.module.path,
            getattr(node, "lineno", 1),
            getattr(node, "col_offset", 0) + 1,
            getattr(node, "end_lineno", getattr(node, "lineno", 1)),
            getattr(node, "end_col_offset", 0) + 1,
            self.function.qualname,
        )

    def eval(self, node: ast.expr | None) -> Value:
        """Return what is known of an expression's value."""
        if node is None:
            return Value("None")
        method = getattr(self, "_" + type(node).__name__.lower(), None)
        if method is None:
            return self._union(ast.iter_child_nodes(node), node)
        value: Value = method(node)
        return value

    def call(self, node: ast.Call) -> Value:
        """Return what is known of a call's value."""
        raise NotImplementedError

    # Each kind of expression.

    def _constant(self, node: ast.Constant) -> Value:
        text = node.value if isinstance(node.value, str) else None
        return Value(repr(node.value), const=text)

    def _name(self, node: ast.Name) -> Value:
        value = self.state.env.get(node.id)
        if value is not None:
            return value
        if node.id in self.shared:
            return self.shared_read(node.id, node)
        return self.global_value(node.id, self.module)

    def global_value(self, name: str, module: ModuleInfo) -> Value:
        """Return what a name at the top of a module stands for."""
        function = self.project.function_named(name, module)
        if function is not None:
            return Value(name, kind="function", about=function)
        cls = self.project.class_named(name, module)
        if cls is not None:
            return Value(name, kind="class", about=cls)
        made = module.globals.get(name)
        if made is None and name in module.imports:
            target = module.imports[name]
            for other in self.project.modules:
                short = target.rpartition(".")[0]
                if short and other.name.endswith(short) and name in other.globals:
                    return self._made(name, other.globals[name], other)
        return Value(name) if made is None else self._made(name, made, module)

    def _made(self, name: str, made: ast.expr, module: ModuleInfo) -> Value:
        if isinstance(made, ast.Constant) and isinstance(made.value, str):
            return Value(name, const=made.value)
        if isinstance(made, ast.JoinedStr):
            return Value(name, const=_joined(made))
        return self.instance(name, made, None, module)

    def instance(
        self, text: str, made: ast.expr | None, annotation: ast.expr | None, module: ModuleInfo
    ) -> Value:
        """Return the value of something of which only its making or its type is known."""
        for name in type_names(annotation):
            cls = self.project.class_named(name, module)
            if cls is not None:
                return Value(text, about=cls, kind="model" if cls.is_model else "")
        hints = type_names(annotation)
        for candidate in _candidates(made):
            if isinstance(candidate, ast.Call):
                dotted = dotted_name(candidate.func)
                cls = self.project.class_named(dotted, module)
                if cls is not None:
                    return Value(text, about=cls)
                hints.extend(reversed(dotted.split(".")))
                for base in [dotted.split(".")[0]]:
                    hints.append(module.imports.get(base, ""))
            elif isinstance(candidate, ast.Constant) and isinstance(candidate.value, str):
                return Value(text, const=candidate.value)
        return Value(text, about=tuple(filter(None, hints)) or None)

    def _attribute(self, node: ast.Attribute) -> Value:
        base = self.eval(node.value)
        text = f"{base.text}.{node.attr}"
        found = self.state.heap.get(text)
        if found is not None:
            return found
        if text in self.shared or (
            node.attr == "state" and self.function.is_async and SESSION.search(text)
        ):
            return self.shared_read(text, node)
        flows = frozenset(
            Flow(flow.read, node.attr if flow.part in ("", "=") else flow.part)
            for flow in base.flows
        )
        if isinstance(base.about, ClassInfo) and base.kind != "class" and not base.flows:
            got = self.property_value(node, base)
            if got is not None:
                return got
            attribute = self.project.attribute(base.about, node.attr)
            if attribute is not None:
                cls, made, annotation = attribute
                return self.instance(text, made, annotation, cls.module)
        if base.kind == "class" and isinstance(base.about, ClassInfo):
            attribute = self.project.attribute(base.about, node.attr)
            if attribute is not None and isinstance(attribute[1], ast.Constant):
                return self._made(text, attribute[1], attribute[0].module)
        marks = base.marks - {"appended", "changed"}
        return Value(text, flows, marks=marks, holder=base.holder if base.kind == "query" else "")

    def _subscript(self, node: ast.Subscript) -> Value:
        base = self.eval(node.value)
        index = self.eval(node.slice)
        text = f"{base.text}[{index.text}]"
        found = self.state.heap.get(text)
        if found is not None:
            return found
        key = index.const if index.const is not None else index.text
        part = base.part(key)
        if part is not None:
            return part
        same = isinstance(node.slice, ast.Slice)
        flows = frozenset(
            Flow(flow.read, flow.part if same or flow.part not in ("", "=") else key)
            for flow in base.flows
        )
        kind = base.kind if base.kind in ("row", "model") else ""
        return Value(
            text,
            flows | weak(index.flows),
            kind=kind,
            holder=base.holder,
            marks=base.marks & {"model"},
        )

    def _await(self, node: ast.Await) -> Value:
        value = self.eval(node.value)
        self.state.tick += 1
        return value

    def _namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.eval(node.value)
        self.state.env[node.target.id] = value
        return value

    def _joinedstr(self, node: ast.JoinedStr) -> Value:
        texts: list[str] = []
        flows: set[Flow] = set()
        marks: set[str] = set()
        const: list[str] = []
        indexed: list[bool] = []
        for each in node.values:
            if isinstance(each, ast.FormattedValue):
                value = self.eval(each.value)
                texts.append("{" + value.text + "}")
                const.append(value.const if value.const is not None else "{}")
                flows |= weak(value.flows)
                marks |= value.marks & {"unique", "model"}
                indexed.append(
                    "index" in value.marks or (value.const is not None and "{" not in value.const)
                )
            elif isinstance(each, ast.Constant):
                texts.append(str(each.value))
                const.append(str(each.value))
        if indexed and all(indexed) and "{}" in "".join(const):
            marks.add("index")
        return Value(
            "f" + repr("".join(texts)),
            frozenset(flows),
            const="".join(const),
            marks=frozenset(marks),
        )

    def _formattedvalue(self, node: ast.FormattedValue) -> Value:
        return self.eval(node.value)

    def _binop(self, node: ast.BinOp) -> Value:
        left, right = self.eval(node.left), self.eval(node.right)
        marks = ((left.marks | right.marks) & KEPT_MARKS) | {"arithmetic"}
        const = None
        if isinstance(node.op, ast.Add):
            if isinstance(node.right, ast.List | ast.ListComp) or isinstance(node.left, ast.List):
                marks |= {"appended"}
            if left.const is not None and right.const is not None:
                const = left.const + right.const
        elif isinstance(node.op, ast.Mod) and left.const is not None:
            const = left.const
        flows = weak(left.flows) | weak(right.flows)
        if isinstance(node.op, ast.BitOr) and not const:
            flows = left.flows | right.flows
        return Value(
            f"({left.text} {_OPERATORS.get(type(node.op), '?')} {right.text})",
            flows,
            const=const,
            marks=marks,
        )

    def _boolop(self, node: ast.BoolOp) -> Value:
        values = [self.eval(each) for each in node.values]
        return merged(values, " or ".join(each.text for each in values))

    def _ifexp(self, node: ast.IfExp) -> Value:
        test = self.eval(node.test)
        body, other = self.eval(node.body), self.eval(node.orelse)
        both = merged([body, other], f"{body.text}|{other.text}")
        return Value(
            both.text,
            both.flows | weak(test.flows),
            both.kind,
            both.holder,
            both.const,
            both.marks,
            both.parts,
            both.about,
        )

    def _compare(self, node: ast.Compare) -> Value:
        values = [self.eval(node.left), *(self.eval(each) for each in node.comparators)]
        flows = frozenset().union(*(weak(each.flows) for each in values))
        return Value(" ? ".join(each.text for each in values), flows)

    def _unaryop(self, node: ast.UnaryOp) -> Value:
        value = self.eval(node.operand)
        return Value(f"not {value.text}", weak(value.flows), marks=value.marks | {"arithmetic"})

    def _dict(self, node: ast.Dict) -> Value:
        parts: list[tuple[str, Value]] = []
        spread: list[str] = []
        flows: set[Flow] = set()
        marks: set[str] = set()
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.eval(each)
            marks |= value.marks & KEPT_MARKS
            if key is None:
                marks |= {"arithmetic"}
                flows |= value.flows
                parts.extend(value.parts)
                spread.append(value.text)
                continue
            name = self.eval(key)
            parts.append((name.const if name.const is not None else name.text, value))
            flows |= weak(value.flows)
        text = "{" + ", ".join(f"{name}: {value.text}" for name, value in parts) + "}"
        if len(node.keys) == 1 and spread:
            text = spread[0]
        return Value(
            text[:400], frozenset(flows), parts=tuple(parts), marks=frozenset(marks), kind="dict"
        )

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        parts: list[tuple[str, Value]] = []
        flows: set[Flow] = set()
        marks: set[str] = set()
        for at, each in enumerate(node.elts):
            value = self.eval(each)
            parts.append((str(at), value))
            if isinstance(each, ast.Starred):
                flows |= value.flows
                marks.add("appended")
            else:
                flows |= weak(value.flows)
            marks |= value.marks & KEPT_MARKS
        text = "[" + ", ".join(value.text for _, value in parts) + "]"
        return Value(
            text[:400], frozenset(flows), parts=tuple(parts), marks=frozenset(marks), kind="list"
        )

    _tuple = _list
    _set = _list

    def _starred(self, node: ast.Starred) -> Value:
        return self.eval(node.value)

    def _lambda(self, node: ast.Lambda) -> Value:
        return Value(f"lambda@{node.lineno}", about=node, kind="lambda")

    def _listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        before = self.state.env
        self.state.env = dict(before)
        flows: set[Flow] = set()
        for each in node.generators:
            flows |= self._bind_loop(each)
        element = self.eval(node.elt)
        self.state.env = before
        return Value(
            f"[{element.text} for]@{node.lineno}",
            element.flows | flows,
            marks=element.marks | {"arithmetic"},
            parts=(("*", element),),
        )

    _setcomp = _listcomp
    _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp) -> Value:
        before = self.state.env
        self.state.env = dict(before)
        flows: set[Flow] = set()
        for each in node.generators:
            flows |= self._bind_loop(each)
        value = self.eval(node.value)
        self.state.env = before
        return Value(
            f"{{for}}@{node.lineno}", weak(value.flows) | flows, marks=frozenset({"arithmetic"})
        )

    def _bind_loop(self, each: ast.comprehension) -> frozenset[Flow]:
        source = self.eval(each.iter)
        self.assign(each.target, self.element(source, each.target))
        flows = source.flows
        for test in each.ifs:
            self.eval(test)
        return flows

    def element(self, source: Value, target: ast.expr) -> Value:
        """Return what is known of an element of something that is iterated."""
        name = ast.unparse(target)
        marks = source.marks & {"index", "model"}
        if (
            "index" in source.marks
            and isinstance(target, ast.Tuple)
            and source.text.startswith("enumerate")
        ):
            index = Value(f"{name}@{target.lineno}[0]", marks=frozenset({"index"}))
            other = Value(
                f"{name}@{target.lineno}[1]", source.flows, marks=source.marks - {"index"}
            )
            return Value(f"{name}@{target.lineno}", parts=(("0", index), ("1", other)))
        if len(source.parts) == 1 and source.text.startswith("{"):
            key, value = source.parts[0]
            return Value(
                f"{name}@{target.lineno}",
                parts=(
                    ("0", Value(repr(key) if not key.isidentifier() else key, const=key)),
                    ("1", value),
                ),
            )
        return Value(
            f"{name}@{target.lineno}",
            source.flows,
            source.kind if source.kind in ("row", "model") else "",
            source.holder,
            marks=marks,
            about=source.about if source.kind == "row" else None,
        )

    def _slice(self, node: ast.Slice) -> Value:
        parts = [self.eval(each).text if each else "" for each in (node.lower, node.upper)]
        return Value(":".join(parts))

    def _yield(self, node: ast.Yield) -> Value:
        value = self.eval(node.value) if node.value else Value("None")
        self.state.tick += 1
        return value

    def _call(self, node: ast.Call) -> Value:
        return self.call(node)

    def _union(self, nodes: Iterable[ast.AST], node: ast.expr) -> Value:
        values = [self.eval(each) for each in nodes if isinstance(each, ast.expr)]
        flows = frozenset().union(*(each.flows for each in values)) if values else NOTHING
        text = values[0].text if len(values) == 1 else f"{type(node).__name__}@{node.lineno}"
        return Value(text, flows)

    def property_value(self, node: ast.Attribute, base: Value) -> Value | None:
        """Return what a property returns, if it touches a store."""
        raise NotImplementedError

    def shared_read(self, text: str, node: ast.AST) -> Value:
        """Return the value of an attribute or a global that others change while this waits."""
        read = self.read(Spot("memory", "", text), "read", node)
        return Value(text, frozenset({Flow(read, "=")}), kind="memory")

    def read(
        self,
        spot: Spot,
        method: str,
        node: ast.AST,
        *,
        test: bool = False,
        safe: str = "",
        asked: frozenset[str] = frozenset(),
    ) -> Read:
        """Return a new read at this point of the path."""
        raise NotImplementedError

    def assign(self, target: ast.expr, value: Value) -> None:
        """Store a value under a name, an attribute or an element."""
        raise NotImplementedError


_OPERATORS = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.BitOr: "|",
    ast.Mod: "%",
    ast.FloorDiv: "//",
}


def weak(flows: frozenset[Flow]) -> frozenset[Flow]:
    """Return the same data, no longer the very thing that was read."""
    if not any(flow.part == "=" for flow in flows):
        return flows
    return frozenset(Flow(flow.read, "") if flow.part == "=" else flow for flow in flows)


def dotted_name(node: ast.expr) -> str:
    """Return a dotted name, calls and subscripts in it left out."""
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return f"{base}.{node.attr}" if base else node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return dotted_name(node.func)
    if isinstance(node, ast.Await | ast.Subscript | ast.Starred):
        return dotted_name(node.value)
    return ""


def type_names(node: ast.expr | None) -> list[str]:
    """Return the last names of the types in an annotation."""
    if node is None:
        return []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.findall(r"\w+(?=[^\w.]|$)", node.value)
    names = []
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute | ast.Name):
            names.append(last_name(each))
    return [
        name
        for name in names
        if name
        not in {"Optional", "Union", "None", "Annotated", "Any", "str", "int", "dict", "list"}
    ]


def _candidates(node: ast.expr | None) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.Await):
        return _candidates(node.value)
    return [] if node is None else [node]


def _joined(node: ast.JoinedStr) -> str:
    return "".join(
        str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values
    )


__all__ = ["NO_MARKS", "Expressions", "dotted_name", "type_names", "weak"]
