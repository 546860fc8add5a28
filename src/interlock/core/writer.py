"""Who writes: the agent, the incarnation of its name, and the rules that it knows.

The writer makes every plan, so that no plan lacks a fence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from interlock.core.document import FILES
from interlock.core.keys import check_key
from interlock.core.plan import PUT, Expect, Plan, Scanned, Write
from interlock.core.refusals import Invalid
from interlock.core.requests import Enter, Steps
from interlock.core.rules import RuleBook


@dataclass(slots=True, eq=False)
class Writer:
    """Who asks: the space's unique id, the agent's name, and the limit of a value in bytes.

    `book` holds the rules as this writer knows them, `incarnation` that of the agent's name.
    `host` is set if the agent was given no name: it is then that of its host and process.
    """

    space: str
    agent: str
    max_value_bytes: int
    book: RuleBook = field(default_factory=RuleBook)
    incarnation: int = 0
    host: str = ""

    def check_key(self, key: object) -> Invalid | None:
        """Return why `key` is not a key here, or None when it is one."""
        return check_key(key)

    def is_document(self, key: str) -> bool:
        """Whether what `key` holds is shown as a file, so that it must be a document."""
        return key.startswith(FILES)

    def plan(
        self,
        op_id: str,
        *,
        writes: Iterable[Write],
        expects: Iterable[Expect] = (),
        scans: Iterable[Scanned] = (),
        ticket: int = 0,
        gives_way: bool = False,
        leased: tuple[str, ...] = (),
        transaction: bool = False,
    ) -> Plan:
        """Make a plan, fenced by the writer's name, its incarnation and the rules it knows."""
        return Plan(
            op_id=op_id,
            agent=self.agent,
            expects=tuple(expects),
            scans=tuple(scans),
            writes=tuple(self._expiring(writes)),
            ticket=ticket,
            gives_way=gives_way,
            rules=self.book.rules.version,
            incarnation=self.incarnation,
            leased=leased,
            transaction=transaction,
        )

    def _expiring(self, writes: Iterable[Write]) -> Iterable[Write]:
        """Say of values that have no expiry of their own when they expire: as the rule says, or
        never."""
        rules = self.book.rules
        if not rules.expiring:
            return writes
        return (
            write._replace(ttl_us=rules.ttl_us(write.key))
            if write.kind == PUT and write.ttl_us is None
            else write
            for write in writes
        )

    def is_own(self, agent: str) -> bool:
        """Whether an operation of `agent` is this writer's.  Who has no name is known by its host:
        another process may send its operation again."""
        host, _, process = agent.rpartition(":")
        unnamed = self.host != "" and host == self.host and process.isdigit()
        return agent == self.agent or unnamed


def enter(writer: Writer, exclusive: bool, name: str) -> Steps[None]:
    """Come into the space: learn its rules and the incarnation of one's name.  Returns None."""
    entered = yield from Enter(writer.agent, exclusive, name)
    writer.incarnation = entered.incarnation
    writer.book.load(entered.rules.version, entered.rules.value)
