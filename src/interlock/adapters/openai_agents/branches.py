"""Branches of a session, its turns, and what they used: what `AdvancedSQLiteSession` offers.

A branch is a copy of the items before a user's message, with a head of its own.  What a turn used
is kept beside the user's item that began it, and goes with it.  Names of branches are never used
again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock import AsyncSpace, Conflict, Json, Record
from interlock.adapters.openai_agents.history import MAIN, Keys, read
from interlock.adapters.space import Work, commit

if TYPE_CHECKING:
    from agents.result import RunResult

_COUNTS = ("requests", "input_tokens", "output_tokens", "total_tokens")
_MCP = ("mcp_call", "mcp_approval_request")
_HOSTED = (
    "computer_call", "file_search_call", "web_search_call", "code_interpreter_call",
    "shell_call", "apply_patch_call",
)  # fmt: skip
_PREVIEW = 100  # characters of a turn's text


class _Turn(NamedTuple):
    """A turn of a branch: its number, the items, the first of which the user wrote, and where that
    stands."""

    number: int
    start: int
    items: list[Record]

    @property
    def text(self) -> Json:
        return self.items[0].value.get("content", "")

    def described(self, longest: int | None) -> dict[str, Any]:
        text = self.text if isinstance(self.text, str) else json.dumps(self.text)
        cut = longest is not None and len(text) > longest
        return {
            "turn": self.number,
            "content": f"{text[:longest]}..." if cut else text,
            "full_content": self.text,
            "timestamp": _when(self.items[0]),
            "can_branch": True,
        }

    def says(self, term: str) -> bool:
        parts = self.text if isinstance(self.text, list) else [{"text": self.text}]
        return any(term.lower() in str(part.get("text", "")).lower() for part in parts)


class Branching:
    """The part of a session that knows branches; methods are as in `AdvancedSQLiteSession`."""

    session_id: str
    _calls: AsyncSpace
    _keys: Keys

    async def _run(self, work: Work[Any]) -> Any:
        raise NotImplementedError

    async def create_branch_from_turn(
        self, turn_number: int, branch_name: str | None = None
    ) -> str:
        """Copy what is before a user's message to a new branch, switch to that, return its name.

        Raises ValueError if there is no such turn, or the name is blank or was used before.
        """
        if branch_name is not None and not branch_name.strip():
            raise ValueError("Branch name cannot be empty")
        name = branch_name or f"branch_from_turn_{turn_number}_{time.time_ns()}"
        source, new = self._keys, self._keys._replace(branch=name)

        async def copy() -> None:
            while True:
                head, items = await read(self._calls, source, None)
                there = await self._calls.read(new.head)
                before = [turn for turn in _grouped(items) if turn.number < turn_number]
                count = sum(len(turn.items) for turn in before)
                if turn_number < 1 or count == len(items):
                    raise ValueError(
                        f"Turn {turn_number} does not contain a user message in branch "
                        f"'{source.branch}'"
                    )
                if name == MAIN or there.version:
                    raise ValueError(
                        f"Branch ID '{name}' has already been used. Choose a new branch ID."
                    )
                counted = ("write", there, {"items": count, "branch": name})
                copies = [("create", new.item(n), items[n].value) for n in range(count)]
                try:
                    await commit(self._calls, [("expect", head), counted, *copies])
                    return
                except Conflict:
                    continue  # the branch has moved, or somebody has used the name

        await self._run(copy())
        self._keys = new
        return name

    async def create_branch_from_content(
        self, search_term: str, branch_name: str | None = None
    ) -> str:
        """Do that from the first turn of the user that says `search_term`.  Raises ValueError."""
        found = await self.find_turns_by_content(search_term)
        if not found:
            raise ValueError(f"No user turns found containing '{search_term}'")
        return await self.create_branch_from_turn(found[0]["turn"], branch_name)

    async def switch_to_branch(self, branch_id: str) -> None:
        """Let this object go on with another branch.  Raises ValueError if there is none."""
        await self._existing(branch_id)
        self._keys = self._keys._replace(branch=branch_id)

    async def delete_branch(self, branch_id: str, force: bool = False) -> None:
        """Delete a branch; the current one only with `force`, which goes back to `main`.

        Raises ValueError if there is none, or it is `main`; SessionHeld while a run has the
        session, SessionConflict if somebody adds to the branch meanwhile.
        """
        if not branch_id or not branch_id.strip():
            raise ValueError("Branch ID cannot be empty")
        if branch_id == MAIN:
            raise ValueError("Cannot delete the 'main' branch")
        if branch_id == self._keys.branch and not force:
            raise ValueError(
                f"Cannot delete current branch '{branch_id}'. "
                "Use force=True or switch branches first"
            )
        head = await self._existing(branch_id)
        keys = self._keys._replace(branch=branch_id)

        async def delete() -> None:
            turn = await self._calls.read(keys.turn)
            found = await self._calls.scan(keys.root)
            doomed = [("delete", each) for key, each in found.items() if key != keys.head]
            await commit(self._calls, [("write", turn, None), ("delete", head), *doomed])

        await self._run(delete())
        if branch_id == self._keys.branch:
            self._keys = self._keys._replace(branch=MAIN)

    async def list_branches(self) -> list[dict[str, Any]]:
        """Return the branches: `branch_id`, `message_count`, `user_turns`, `is_current` and
        `created_at`."""
        records = await self._run(self._calls.scan(f"{self._keys.base}/"))
        found = []
        for key, head in records.items():
            if not key.endswith("/head"):
                continue
            keys = self._keys._replace(branch=head.value.get("branch", MAIN))
            items = [records[keys.item(n)] for n in range(head.value["items"])]
            if items:
                described = {
                    "branch_id": keys.branch,
                    "message_count": len(items),
                    "user_turns": sum(_type(item.value) == "user" for item in items),
                    "is_current": keys.branch == self._keys.branch,
                    "created_at": _when(items[0]),
                }
                found.append((items[0].position, described))
        return [described for _, described in sorted(found, key=lambda each: each[0])]

    async def get_conversation_turns(self, branch_id: str | None = None) -> list[dict[str, Any]]:
        """Return the user's turns: `turn`, `content`, `full_content`, `timestamp`, `can_branch`."""
        _, turns = await self._turns(branch_id)
        return [turn.described(_PREVIEW) for turn in turns if turn.number]

    async def find_turns_by_content(
        self, search_term: str, branch_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the user's turns that say `search_term`, in capitals or not."""
        _, turns = await self._turns(branch_id)
        return [turn.described(None) for turn in turns if turn.number and turn.says(search_term)]

    async def get_conversation_by_turns(
        self, branch_id: str | None = None
    ) -> dict[int, list[dict[str, str | None]]]:
        """Return for each turn what its items are: `type` and `tool_name`."""
        _, turns = await self._turns(branch_id)
        return {
            turn.number: [
                {"type": _type(item.value), "tool_name": _tool(item.value)} for item in turn.items
            ]
            for turn in turns
        }

    async def get_tool_usage(self, branch_id: str | None = None) -> list[tuple[str, int, int]]:
        """Return which tools were called: name, how often, in which turn."""
        _, turns = await self._turns(branch_id)
        return [
            (name, count, turn.number)
            for turn in turns
            for name, count in sorted(
                Counter(
                    _tool(item.value) or _type(item.value)
                    for item in turn.items
                    if _type(item.value).endswith(("_call", "_approval_request"))
                ).items()
            )
        ]

    async def store_run_usage(self, result: RunResult) -> None:
        """Store what a run used, with the user's last turn; nothing if there is none.

        Call it after `Runner.run`, inside a `turn` block if others may run meanwhile.
        """
        usage = result.context_wrapper.usage
        stored: dict[str, Json] = {name: getattr(usage, name) or 0 for name in _COUNTS}
        for name in ("input_tokens_details", "output_tokens_details"):
            details = getattr(usage, name, None)
            stored[name] = details.model_dump(mode="json") if details else None

        async def store() -> None:
            while True:
                _, items = await read(self._calls, self._keys, None)
                last = next((turn for turn in reversed(_grouped(items)) if turn.number), None)
                if last is None:
                    return
                there = await self._calls.read(self._keys.usage(last.start))
                try:
                    writes = [("expect", last.items[0]), ("write", there, stored)]
                    await commit(self._calls, writes)
                    return
                except Conflict:
                    continue  # the turn was taken off, or somebody has stored what it used

        await self._run(store())

    async def get_session_usage(self, branch_id: str | None = None) -> dict[str, int] | None:
        """Return the sums of a branch, or of all (None), and `total_turns`; None if there are
        none."""
        root = f"{self._keys.base}/"
        if branch_id:
            root = f"{self._keys._replace(branch=branch_id).root}usage/"
        found = await self._run(self._calls.scan(root))
        used = [each.value for key, each in found.items() if "/usage/" in key]
        if not used:
            return None
        sums = {name: sum(each[name] for each in used) for name in _COUNTS}
        return {**sums, "total_turns": len(used)}

    async def get_turn_usage(
        self, user_turn_number: int | None = None, branch_id: str | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Return what a turn used, `{}` if nothing was stored, or a list of all turns' (None)."""
        keys = self._keys if branch_id is None else self._keys._replace(branch=branch_id)
        _, turns = await self._turns(branch_id)
        found = await self._run(self._calls.scan(f"{keys.root}usage/"))
        used = {
            turn.number: found[keys.usage(turn.start)].value
            for turn in turns
            if keys.usage(turn.start) in found
        }
        if user_turn_number is not None:
            return dict(used.get(user_turn_number, {}))
        return [{"user_turn_number": number, **each} for number, each in used.items()]

    async def _turns(self, branch_id: str | None) -> tuple[Record, list[_Turn]]:
        keys = self._keys if branch_id is None else self._keys._replace(branch=branch_id)
        head, items = await self._run(read(self._calls, keys, None))
        return head, _grouped(items)

    async def _existing(self, branch_id: str) -> Record:
        head: Record = await self._run(self._calls.read(self._keys._replace(branch=branch_id).head))
        if not head.exists and branch_id != MAIN:
            raise ValueError(f"Branch '{branch_id}' does not exist")
        return head


def _grouped(items: list[Record]) -> list[_Turn]:
    """Return items by turn; those before the user's first one are turn 0."""
    turns: list[_Turn] = []
    for index, item in enumerate(items):
        if _type(item.value) == "user":
            turns.append(_Turn((turns[-1].number if turns else 0) + 1, index, [item]))
        elif turns:
            turns[-1].items.append(item)
        else:
            turns.append(_Turn(0, 0, [item]))
    return turns


def _when(item: Record) -> str:
    return f"{item.at:%Y-%m-%d %H:%M:%S}" if item.at else ""


def _type(item: Any) -> str:
    role = item.get("role")
    return str(role if role in ("user", "assistant") else item.get("type") or "other")


def _tool(item: Any) -> str | None:
    """Return the name of the tool that an item calls, as `AdvancedSQLiteSession` names it."""
    kind, name = item.get("type"), item.get("name")
    if kind in ("tool_search_call", "tool_search_output"):
        return "tool_search"
    if kind in _HOSTED:
        return str(kind)
    within = item.get("server_label") if kind in _MCP else item.get("namespace")
    return ".".join(str(each) for each in (within, name) if each) or None
