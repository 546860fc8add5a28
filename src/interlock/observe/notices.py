"""What the hooks of `space.on` are given: one small object for each thing that happened.

None of them holds a value.
"""

from __future__ import annotations

from typing import NamedTuple

REFUSALS = {
    "Conflict": "conflict",
    "Contended": "contended",
    "Deadlock": "deadlock",
    "Fenced": "fenced",
    "Forbidden": "forbidden",
    "Held": "held",
    "IllegalTransition": "illegal_transition",
    "Invalid": "invalid",
}  # the events of refusals, by their types
EVENTS = frozenset(
    {
        *REFUSALS.values(),
        "commit",
        "fault",
        "lease",
        "reclaim",
        "reconnect",
        "refusal",
        "slow_commit",
        "turn",
    }
)


class CommitNotice(NamedTuple):
    """Something was committed, up to log position `position`.

    `key` is the first of the `keys`.  `attempts`: how often the function of an update or a
    transaction was called (0: there was none).  `seconds`: how long the commit itself took.
    """

    event: str
    space: str
    agent: str
    key: str
    keys: tuple[str, ...]
    position: int
    attempts: int
    seconds: float
    op_id: str


class RefusalNotice(NamedTuple):
    """Something was refused; `reason` is the name of the refusal, such as `Conflict`.

    `other` is the agent that stood in the way, None where none did or nobody knows.  `attempts`:
    how often the function of an update or a transaction was called so far.
    """

    event: str
    space: str
    agent: str
    key: str
    other: str | None
    reason: str
    attempts: int
    op_id: str


class TurnNotice(NamedTuple):
    """An agent has its turn in the queue for `key`, after `seconds`.

    `ahead`: how many came before it when it joined.
    """

    event: str
    space: str
    agent: str
    key: str
    ahead: int
    seconds: float


class LeaseNotice(NamedTuple):
    """A lease was taken after `seconds` (event `lease`), or taken away from whoever held it
    (`reclaim`).

    `epoch` is the new one of the key.  Without a key, `agent` is a name that another process took
    over, and `epoch` its incarnation.
    """

    event: str
    space: str
    agent: str
    key: str
    epoch: int
    seconds: float


class StoreNotice(NamedTuple):
    """The store failed to answer (`fault`), or answered again (`reconnect`).

    `reason` is the name of the fault, such as `Unavailable`; "" where it answered again, when the
    request had been sent `attempts` times, over `seconds`.
    """

    event: str
    space: str
    agent: str
    reason: str
    attempts: int = 1
    seconds: float = 0.0


Notice = CommitNotice | RefusalNotice | TurnNotice | LeaseNotice | StoreNotice
