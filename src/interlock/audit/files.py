"""Files: what is read from them and written to them; and what every event of a walk has."""

from __future__ import annotations

import ast
import itertools
import re

from interlock.audit.expression import Expressions, dotted_name
from interlock.audit.project import FunctionInfo
from interlock.audit.value import NOTHING, Flow, Read, Spot, Value

_PATH_READS = {"read_text", "read_bytes"}
_PATH_WRITES = {"write_text", "write_bytes"}
_PANDAS = re.compile(r"^(pd|pandas|pl|polars|np|numpy|torch|joblib|toml|tomllib)\.(read_\w+|load)$")
_SAVERS = re.compile(r"^(torch|joblib|np|numpy)\.(save|dump|savez)$")
_MOVES = {"replace", "rename", "move", "renames"}


class Files(Expressions):
    """Evaluates calls on files."""

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
        raise NotImplementedError

    def read(
        self,
        spot: Spot,
        method: str,
        node: ast.AST,
        *,
        test: bool = False,
        safe: str = "",
        asked: frozenset[str] = frozenset(),
        columns: tuple[str, ...] = (),
        where: tuple[tuple[str, Value], ...] = (),
        arguments: tuple[str, ...] = (),
        noun: str = "",
    ) -> Read:
        """Return a new read at this point of the path."""
        read = Read(
            self.site(node),
            spot,
            method,
            test,
            self.state.held,
            self.state.tick,
            tuple(at for at, _ in self.loops),
            safe or self.function.safe,
            asked,
            columns,
            where,
            tuple(at for at, _ in self.frames),
            self.frames[0][1] if self.frames else None,
            self.state.slow,
            arguments,
            noun,
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
        self,
        target: FunctionInfo,
        node: ast.expr,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value:
        """Follow a call into the function that it calls."""
        raise NotImplementedError

    def mutate(self, target: ast.expr, values: list[Value], how: str, node: ast.AST) -> None:
        """Note that what stands under a name was changed in place."""
        raise NotImplementedError

    # Files.

    def file_call(
        self,
        node: ast.Call,
        name: str,
        base: Value | None,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
        """Note what is read from and written to files."""
        dotted = dotted_name(node.func)
        if name == "open" and (
            base is None
            or base.text in ("aiofiles", "io", "codecs", "os", "anyio", "gzip", "bz2", "lzma")
            or not base.kind
        ):
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
            data, path = (
                (second, first) if name == "save" and dotted.startswith("n") else (first, second)
            )
            self._file_write(path.text, name, node, [data])
            return Value("None")
        if (
            base is not None
            and name.startswith("to_")
            and base.flows
            and positional
            and name not in ("to_dict", "to_list", "to_numpy")
        ):
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
            if (
                "r" in handle.marks
                and (not rest or "w" not in handle.marks)
                and not name.startswith("dump")
            ):
                return self._file_read(handle.holder, name, node)
            if "w" in handle.marks and name in ("writer", "DictWriter", "TextIOWrapper"):
                return handle
            if "w" in handle.marks and rest:
                self._file_write(handle.holder, name, node, rest)
                return Value("None")
        return None

    def _open(
        self, name: str, base: Value | None, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        plain = base is None or base.text in (
            "aiofiles",
            "io",
            "codecs",
            "os",
            "anyio",
            "gzip",
            "bz2",
            "lzma",
        )
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
        return Value(
            f"open({path.text})", kind="file", holder=path.text, marks=frozenset(marks or {"a"})
        )

    def _on_file(
        self,
        node: ast.Call,
        name: str,
        base: Value,
        positional: list[Value],
        named: dict[str, Value],
    ) -> Value | None:
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

    def _move(
        self, node: ast.Call, name: str, base: Value, positional: list[Value]
    ) -> Value | None:
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
