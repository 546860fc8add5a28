"""A plugin of pytest: the anthropic SDK's own tests of its memory tool, with ours in its place.

The tests look at files in a folder, which a document of ours need not have: so before a command the
space takes what the folder holds, and afterwards the folder what the space holds.
"""

from __future__ import annotations

import atexit
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import anthropic.lib.tools._beta_builtin_memory_tool as theirs
import anyio

import interlock
from interlock.adapters.claude import AsyncMemoryTool, MemoryTool

URL = os.environ.get("INTERLOCK_PEERS_URL", "sqlite://")
PREFIX = "files/memories/"
_spaces: list[interlock.Space] = []


class _Shown:
    """What both tools have in common: the folder."""

    base_path: Any
    memory_root: Any
    space: interlock.Space

    def opened(self, base_path: str) -> interlock.Space:
        self.space = interlock.open(URL, space=uuid.uuid4().hex, max_value_bytes=1 << 26)
        _spaces.append(self.space)
        self.root = Path(base_path) / "memories"
        self.root.mkdir(parents=True, exist_ok=True)
        return self.space

    def take(self) -> None:
        for file in self.root.rglob("*"):
            if file.is_file():
                found = self.space.read(f"{PREFIX}{file.relative_to(self.root)}")
                self.space.write(found, {"text": file.read_bytes().decode(), "mode": 0o600})

    def show(self) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()
        for key, record in self.space.scan(PREFIX).items():
            file = self.root / key.removeprefix(PREFIX)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(record.value["text"].encode())


class PeerTool(_Shown, MemoryTool):
    """Our tool, made with the arguments of `BetaLocalFilesystemMemoryTool`."""

    def __init__(self, base_path: str) -> None:
        super().__init__(self.opened(base_path))
        self.base_path, self.memory_root = Path(base_path), self.root

    def execute(self, command: Any) -> Any:
        self.take()
        try:
            return super().execute(command)
        finally:
            self.show()


class AsyncPeerTool(_Shown, AsyncMemoryTool):
    """Our asynchronous tool, made with the arguments of theirs."""

    def __init__(self, base_path: str) -> None:
        super().__init__(self.opened(base_path))
        self.base_path, self.memory_root = anyio.Path(base_path), anyio.Path(self.root)

    async def execute(self, command: Any) -> Any:
        self.take()
        try:
            return await super().execute(command)
        finally:
            self.show()


def _close() -> None:
    for space in _spaces:
        space.close()


atexit.register(_close)
module: Any = theirs
module.BetaLocalFilesystemMemoryTool = PeerTool
module.BetaAsyncLocalFilesystemMemoryTool = AsyncPeerTool
