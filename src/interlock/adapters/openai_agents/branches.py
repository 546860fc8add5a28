"""Branches of a session, its turns, and what they used: what `AdvancedSQLiteSession` offers.

A branch is a copy of the items before a user's message, with a head of its own.  What a turn used
is kept beside the user's item that began it, and goes with it.  Names of branches are never used
again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from interlock import AsyncSpace, Conflict, Json, Record
from interlock.adapters.openai_agents.history import MAIN, Keys, read
from interlock.adapters.space import Work, commit

if TYPE_CHECKING:
    from agents.result import RunResult

_COUNTS = ("requests", "input_tokens", "output_tokens", "total_tokens")


class Branching:
    """The part of a session that knows branches; methods are as in `AdvancedSQLiteSession`."""

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
        source, new = self._keys, self._on(name)

        async def copy() -> None:
            while True:
                head, items = await read(self._calls, source, None)
                there = await self._calls.read(new.head)
                starts = _starts(items)
                if not 0 < turn_number <= len(starts):
                    raise ValueError(
                        f"Turn {turn_number} does not contain a user message in branch "
                        f"'{source.branch}'"
                    )
                if name == MAIN or there.version:
                    raise ValueError(
                        f"Branch ID '{name}' has already been used. Choose a new branch ID."
                    )
                before = items[: starts[turn_number - 1]]
                counted = ("write", there, {"items": len(before), "branch": name})
                copies = [("create", new.item(n), each.value) for n, each in enumerate(before)]
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
        self._keys = self._on(branch_id)

    async def delete_branch(self, branch_id: str, force: bool = False) -> None:
        """Delete a branch; the current one only with `force`, which goes back to `main`.

        Raises ValueError if there is none, or it is `main`; SessionHeld while a run has the
        session, SessionConflict if somebody adds to the branch meanwhile.
        """
        if branch_id == MAIN:
            raise ValueError("Cannot delete the 'main' branch")
        if branch_id == self._keys.branch and not force:
            raise ValueError(
                f"Cannot delete current branch '{branch_id}'. "
                "Use force=True or switch branches first"
            )
        keys, head = self._on(branch_id), await self._existing(branch_id)

        async def delete() -> None:
            turn = await self._calls.read(keys.turn)
            found = await self._calls.scan(keys.root)
            doomed = [("delete", each) for key, each in found.items() if key != keys.head]
            await commit(self._calls, [("write", turn, None), ("delete", head), *doomed])

        await self._run(delete())
        if branch_id == self._keys.branch:
            self._keys = self._on(MAIN)

    async def list_branches(self) -> list[dict[str, Any]]:
        """Return the branches: `branch_id`, `message_count`, `user_turns`, `is_current` and
        `created_at`."""
        records = await self._run(self._calls.scan(f"{self._keys.base}/"))
        found = []
        for head in [each for key, each in records.items() if key.endswith("/head")]:
            keys = self._on(head.value.get("branch", MAIN))
            items = [records[keys.item(n)] for n in range(head.value["items"])]
            if items:
                described = {
                    "branch_id": keys.branch,
                    "message_count": len(items),
                    "user_turns": len(_starts(items)),
                    "is_current": keys.branch == self._keys.branch,
                    "created_at": _when(items[0]),
                }
                found.append((items[0].position, described))
        return [described for _, described in sorted(found, key=lambda each: each[0])]

    async def get_conversation_turns(self, branch_id: str | None = None) -> list[dict[str, Any]]:
        """Return the user's turns: `turn`, `content`, `full_content`, `timestamp`, `can_branch`."""
        found: list[dict[str, Any]] = await self._asked(branch_id, "get_conversation_turns")
        return found

    async def find_turns_by_content(
        self, search_term: str, branch_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the user's turns that say `search_term`, in capitals or not."""
        asked = self._asked(branch_id, "find_turns_by_content", search_term)
        found: list[dict[str, Any]] = await asked
        return found

    async def get_conversation_by_turns(
        self, branch_id: str | None = None
    ) -> dict[int, list[dict[str, str | None]]]:
        """Return for each turn what its items are: `type` and `tool_name`."""
        found: dict[int, Any] = await self._asked(branch_id, "get_conversation_by_turns")
        return found

    async def get_tool_usage(self, branch_id: str | None = None) -> list[tuple[str, int, int]]:
        """Return which tools were called: name, how often, in which turn."""
        found: list[tuple[str, int, int]] = await self._asked(branch_id, "get_tool_usage")
        return found

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
                for last in _starts(items)[-1:]:
                    there = await self._calls.read(self._keys.usage(last))
                    try:
                        writes = [("expect", items[last]), ("write", there, stored)]
                        await commit(self._calls, writes)
                    except Conflict:
                        break  # the turn was taken off, or somebody has stored what it used
                else:
                    return

        await self._run(store())

    async def get_session_usage(self, branch_id: str | None = None) -> dict[str, int] | None:
        """Return the sums of a branch, or of all (None), and `total_turns`; None if there are
        none."""
        root = f"{self._on(branch_id).root}usage/" if branch_id else f"{self._keys.base}/"
        found = await self._run(self._calls.scan(root))
        used = [each.value for key, each in found.items() if "/usage/" in key]
        sums = {name: sum(each[name] for each in used) for name in _COUNTS}
        return {**sums, "total_turns": len(used)} if used else None

    async def get_turn_usage(
        self, user_turn_number: int | None = None, branch_id: str | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Return what a turn used, `{}` if nothing was stored, or a list of all turns' (None)."""
        keys = self._on(branch_id)
        _, items = await self._run(read(self._calls, keys, None))
        found = await self._run(self._calls.scan(f"{keys.root}usage/"))
        used = {
            number: found[keys.usage(start)].value
            for number, start in enumerate(_starts(items), 1)
            if keys.usage(start) in found
        }
        if user_turn_number is not None:
            return dict(used.get(user_turn_number, {}))
        return [{"user_turn_number": number, **each} for number, each in used.items()]

    def _on(self, branch_id: str | None) -> Keys:
        return self._keys if branch_id is None else self._keys._replace(branch=branch_id)

    async def _existing(self, branch_id: str) -> Record:
        head: Record = await self._run(self._calls.read(self._on(branch_id).head))
        if not head.exists and branch_id != MAIN:
            raise ValueError(f"Branch '{branch_id}' does not exist")
        return head

    async def _asked(self, branch_id: str | None, method: str, *arguments: object) -> Any:
        """Return what a session of theirs answers that has the items of a branch."""
        from agents.extensions.memory import AdvancedSQLiteSession

        _, items = await self._run(read(self._calls, self._on(branch_id), None))
        theirs = AdvancedSQLiteSession(session_id="copy", create_tables=True)
        try:
            await theirs.add_items([item.value for item in items])
            found = await getattr(theirs, method)(*arguments)
        finally:
            theirs.close()
        starts = _starts(items)
        for each in found:
            if isinstance(each, dict):  # a turn
                each["timestamp"] = _when(items[starts[each["turn"] - 1]])
        return found


def _starts(items: list[Record]) -> list[int]:
    """Return where the user's turns begin."""
    return [index for index, item in enumerate(items) if item.value.get("role") == "user"]


def _when(item: Record) -> str:
    return f"{item.at:%Y-%m-%d %H:%M:%S}" if item.at else ""
