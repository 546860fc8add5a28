"""The memory tool of the `anthropic` SDK, whose files are documents of a space.

The file `/memories/a/b.md` is the document `files/memories/a/b.md`, so `space.files` and `interlock
files sync` can show it on a disk, too.  The texts for the model are those of the SDK's own tool.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from interlock import AsyncSpace, AsyncTx, Conflict, Invalid, Json, Record, Refused, Space
from interlock.adapters.home import Closing
from interlock.adapters.space import delete_all, one_of, run, run_async
from interlock.extras import needs

with needs("The anthropic SDK", "anthropic"):
    from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool, ToolError
    from anthropic.types.beta import BetaCacheControlEphemeralParam

ROOT = "/memories"
_MODE = 0o600  # of the file, where a disk shows it
_MOST_LINES, _WIDTH = 999_999, 6
_MOST_VIEWED = 1_000  # documents that a tool remembers the model's view of
_COMMANDS = ("view", "create", "str_replace", "insert", "delete", "rename")
_NO_FILE = "The path {} does not exist. Please provide a valid path."


class _View(NamedTuple):
    """What the model knows of a document: the version that it was shown, and the text as it is
    with the model's own edits (None: only its name was shown)."""

    version: int
    text: str | None


class _Memory:
    """The commands, for spaces of both kinds."""

    def __init__(self, space: AsyncSpace, folder: str, unread: str) -> None:
        self._space = space
        self._base = f"files/{folder.strip('/')}"
        self._refuses = unread == "refuse"
        self._views: dict[str, _View] = {}  # the last ones last

    async def execute(self, command: Any) -> str:
        """Do what the model asks for.  Raises ToolError."""
        if command.command not in _COMMANDS:
            # As the SDK's own class raises for a command of a later version.
            raise NotImplementedError(f"Unknown command: {command.command}")
        with self._for_the_model():
            answer: str = await getattr(self, f"_{command.command}")(command)
            return answer

    async def clear(self) -> str:
        await delete_all(self._space, below=[f"{self._base}/"])
        return "All memory cleared"

    async def _view(self, command: Any) -> str:
        key = self._key(command.path)
        record = await self._space.read(key)
        if not record.exists:
            return await self._listing(command.path, key)
        text = _text(command.path, record.value)
        self._viewed(record, text)
        lines = text.split("\n")
        if len(lines) > _MOST_LINES:
            raise ToolError(f"File {command.path} exceeds maximum line limit of 999,999 lines.")
        first, last = 0, len(lines)
        if command.view_range and len(command.view_range) == 2:
            first = max(1, command.view_range[0]) - 1
            last = last if command.view_range[1] == -1 else command.view_range[1]
        shown = _numbered(lines[first:last], first)
        return f"Here's the content of {command.path} with line numbers:\n{shown}"

    async def _listing(self, path: str, key: str) -> str:
        found = await self._space.scan(f"{key}/")
        if not found and key != self._base:
            raise ToolError(_NO_FILE.format(path))
        sizes: dict[tuple[str, ...], int] = {(): 0}
        folders: set[tuple[str, ...]] = set()
        for record in found.values():
            view = self._views.get(record.key)
            if view is None or view.text is None:  # else it has an older text in mind
                self._viewed(record, None)
            names = tuple(record.key.removeprefix(f"{key}/").split("/"))
            if any(name.startswith(".") for name in names):
                continue
            for depth in range(len(names) + 1):
                sizes[names[:depth]] = sizes.get(names[:depth], 0) + _size(record.value)
            folders.update(names[:depth] for depth in range(1, len(names)))
        lines = [
            f"{_in_units(size)}\t{'/'.join((path, *names))}{'/' * (names in folders)}"
            for names, size in sorted(sizes.items())
            if len(names) <= 2
        ]
        head = f"Here're the files and directories up to 2 levels deep in {path}"
        return "\n".join([f"{head}, excluding hidden items:", *lines])

    async def _create(self, command: Any) -> str:
        key, value = self._key(command.path), {"text": command.file_text, "mode": _MODE}
        try:
            if key == self._base:
                raise ToolError(f"File {command.path} already exists")
            self._viewed(await self._space.create(key, value), command.file_text)
        except Conflict as conflict:
            raise ToolError(f"File {command.path} already exists") from conflict
        return f"File created successfully at: {command.path}"

    async def _str_replace(self, command: Any) -> str:
        path, old, new = command.path, command.old_str, command.new_str

        def replaced(text: str, viewed: str) -> tuple[str, str]:
            at = [found.start() for found in re.finditer(f"(?={re.escape(old)})", text)]
            if not at:
                raise ToolError(
                    "No replacement was performed, "
                    f"old_str `{old}` did not appear verbatim in {path}."
                )
            if len(at) > 1:
                lines = ", ".join(str(text.count("\n", 0, each) + 1) for each in at)
                raise ToolError(
                    f"No replacement was performed. Multiple occurrences of old_str `{old}` "
                    f"in lines: {lines}. Please ensure it is unique"
                )
            return text.replace(old, new), viewed.replace(old, new, 1)

        before, after = await self._edit(path, replaced)
        lines, changed = after.split("\n"), before.count("\n", 0, before.find(old))
        first = max(0, changed - 2)
        return (
            "The memory file has been edited. "
            "Here is the snippet showing the change (with line numbers):\n"
            f"{_numbered(lines[first : changed + 3], first)}"
        )

    async def _insert(self, command: Any) -> str:
        path, line = command.path, command.insert_line

        def inserted(text: str, viewed: str) -> tuple[str, str]:
            lines, known = _lines(text), _lines(viewed)
            if line < 0 or line > len(known):
                raise ToolError(
                    f"Invalid `insert_line` parameter: {line}. "
                    f"It should be within the range [0, {len(known)}]."
                )
            at = _same_place(line, known, lines)
            if at is None:
                raise ToolError(
                    f"No insertion was performed: the lines around line {line} of {path} "
                    "were changed since you viewed it. View it again."
                )
            lines.insert(at, command.insert_text.rstrip("\n"))
            known.insert(line, command.insert_text.rstrip("\n"))
            return "\n".join([*lines, ""]), "\n".join([*known, ""])

        await self._edit(path, inserted)
        return f"The file {path} has been edited."

    async def _edit(
        self, path: str, change: Callable[[str, str], tuple[str, str]]
    ) -> tuple[str, str]:
        """Change the text of a file as it is now; return it as it was and is.

        `change` makes of it, and of the text that the model has in mind, the new ones.
        """
        key = self._key(path)

        async def edit(tx: AsyncTx) -> tuple[Record, str, str, str]:
            record = await tx.read(key)
            if not record.exists:
                folder = key == self._base or await tx.scan(f"{key}/")
                raise ToolError(
                    f"The path {path} is not a file." if folder else _NO_FILE.format(path)
                )
            text = _text(path, record.value)
            view = self._views.get(key)
            known = text if view is None or view.text is None else view.text
            made, mine = change(text, known)
            if made != text:
                await tx.write(record, {**record.value, "text": made})
            return record, text, made, mine

        record, before, after, mine = await self._space.transact(edit)
        view = self._views.get(key)
        if view is not None:  # what others wrote meanwhile was not shown to it
            own = view.version == record.version and before != after
            self._views[key] = _View(view.version + own, mine)
        return before, after

    async def _delete(self, command: Any) -> str:
        key = self._key(command.path)
        if key == self._base:
            raise ToolError(f"Cannot delete the {ROOT} directory itself")

        async def delete(tx: AsyncTx) -> None:
            found = await _below(tx, key)
            if not found:
                raise ToolError(f"The path {command.path} does not exist")
            for record in found:
                self._check_viewed(record)
                await tx.delete(record)

        await self._space.transact(delete)
        return f"Successfully deleted {command.path}"

    async def _rename(self, command: Any) -> str:
        old, new = self._key(command.old_path), self._key(command.new_path)
        if old == self._base:
            raise ToolError(f"Cannot rename the {ROOT} directory itself")
        if new.startswith(f"{old}/"):
            raise ToolError(f"Cannot rename {command.old_path} into itself")

        async def rename(tx: AsyncTx) -> None:
            if new == self._base or await _below(tx, new):
                raise ToolError(f"The destination {command.new_path} already exists")
            found = await _below(tx, old)
            if not found:
                raise ToolError(f"The path {command.old_path} does not exist")
            for record in found:
                await tx.delete(record)
                await tx.create(new + record.key.removeprefix(old), record.value)

        await self._space.transact(rename)
        return f"Successfully renamed {command.old_path} to {command.new_path}"

    def _key(self, path: str) -> str:
        """Return the key of a path, `self._base` for the root."""
        root, *rest = path.removeprefix("/").split("/")
        if not path.startswith("/") or root != "memories":
            raise ToolError(f"Path must start with {ROOT}, got: {path}")
        names = [self._base]
        for name in rest:
            if name == "..":
                names.pop()
            elif name not in ("", "."):
                names.append(name)
            if not names:
                raise ToolError(f"Path {path} would escape {ROOT} directory")
        return "/".join(names)

    def _viewed(self, record: Record, text: str | None) -> None:
        self._views.pop(record.key, None)
        self._views[record.key] = _View(record.version, text)
        if len(self._views) > _MOST_VIEWED:
            del self._views[next(iter(self._views))]

    def _check_viewed(self, record: Record) -> None:
        """Raise ToolError if the model would destroy what it has not been shown."""
        view = self._views.get(record.key)
        if self._refuses and (view is None or view.version != record.version):
            path = ROOT + record.key.removeprefix(self._base)
            why = "you have not viewed" if view is None else "changed since you viewed it:"
            raise ToolError(
                f"Nothing was deleted: {why} {path}, last written by {record.writer}. "
                "View it first, then decide again."
            )

    @contextmanager
    def _for_the_model(self) -> Iterator[None]:
        """Raise what the space refuses as what the SDK tells the model."""
        try:
            yield
        except Refused as refused:
            text = str(refused)
            for name in (self._base, self._base.removeprefix("files/")):
                text = text.replace(f"'{name}/", f"'{ROOT}/")
            raise ToolError(text) from refused


async def _below(tx: AsyncTx, key: str) -> list[Record]:
    """Return a file, or the files of a folder."""
    record = await tx.read(key)
    return [record] if record.exists else [*(await tx.scan(f"{key}/")).values()]


def _text(path: str, value: Json) -> str:
    if "text" not in value:
        raise ToolError(f"The file {path} is not a text file.")
    text: str = value["text"]
    return text


def _size(value: Json) -> int:
    return len(value["text"].encode() if "text" in value else b64decode(value["base64"]))


def _in_units(size: int) -> str:
    unit = min(max(size.bit_length() - 1, 0) // 10, 3)
    number = size / 1024**unit
    return f"{number:.0f}{'BKMG'[unit]}" if number == int(number) else f"{number:.1f}{'BKMG'[unit]}"


def _numbered(lines: Sequence[str], before: int) -> str:
    return "\n".join(f"{n:>{_WIDTH}}\t{line}" for n, line in enumerate(lines, before + 1))


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _same_place(line: int, known: list[str], lines: list[str]) -> int | None:
    """Return where in `lines` what follows `line` lines of `known` is: both are the same but for
    one region.  None if it is within that."""
    least = min(len(known), len(lines))
    head = _same(known, lines)
    tail = min(_same(known[::-1], lines[::-1]), least - head)
    if line >= len(known) - tail:
        return line + len(lines) - len(known)
    return line if line <= head else None


def _same(one: list[str], other: list[str]) -> int:
    """Return how many lines are the same from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


class _Tool(Closing):
    """The commands, as the SDK calls them."""

    def __init__(
        self,
        where: str | Space | AsyncSpace,
        folder: str = "memories",
        *,
        space: str = "default",
        agent: str | None = None,
        unread: Literal["refuse", "delete"] = "refuse",
        cache_control: BetaCacheControlEphemeralParam | None = None,
    ) -> None:
        super().__init__(cache_control=cache_control)  # type: ignore[call-arg]  # of the SDK's class beside it
        one_of("unread", unread, "refuse", "delete")
        if not isinstance(folder, str) or not folder.strip("/"):
            raise Invalid(f"folder={folder!r:.60} must be a path, such as 'memories/user-17'.")
        self._open(where, space, agent)
        self._memory = _Memory(self._calls, folder, unread)

    def execute(self, command: Any) -> Any:
        """Do what the model asks for, and return the text for it.  Raises ToolError."""
        raise NotImplementedError

    def _execute(self, command: Any) -> Any:
        return self.execute(command)

    view = create = str_replace = insert = delete = rename = _execute


class MemoryTool(_Tool, BetaAbstractMemoryTool):
    """The memory tool in a space, or at a URL: `tools=[MemoryTool("sqlite:///team.db")]`.

    With a URL it opens the space called `space`, as `agent`, and closes it: at the end of a `with`
    block, by `close()`, or when nobody refers to it any more.  A space is one of `interlock.open`.

    Edits change the file as it is now, whoever else writes it: none is lost.  `delete` raises
    ToolError unless the model was shown every file in its present version, by `view` of the file,
    or by name in a folder if it never viewed it; `unread="delete"` deletes the others, too.  What
    is refused reaches the model as ToolError, with Interlock's refusal as its cause.

    `folder`: where in the space the files are.  Several conversations may have one folder; each
    conversation needs a tool of its own, which remembers what its model was shown.
    """

    def execute(self, command: Any) -> Any:
        """Do what the model asks for, and return the text for it.  Raises ToolError."""
        return run(self._space, self._memory.execute(command))

    def clear_all_memory(self) -> str:
        """Delete all files."""
        return run(self._space, self._memory.clear())


class AsyncMemoryTool(_Tool, BetaAsyncAbstractMemoryTool):
    """The memory tool for `AsyncAnthropic`, in a space of either kind; otherwise a `MemoryTool`."""

    async def execute(self, command: Any) -> Any:
        """Do what the model asks for, and return the text for it.  Raises ToolError."""
        return await run_async(self._space, self._memory.execute(command))

    async def clear_all_memory(self) -> str:
        """Delete all files."""
        return await run_async(self._space, self._memory.clear())
