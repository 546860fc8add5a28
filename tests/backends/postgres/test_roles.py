"""The roles of a store in PostgreSQL: whatever one of them may not do is refused by the server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

import interlock
from interlock.backends.postgres import calls
from interlock.cli import main
from tests.facades import Facades
from tests.servers.clients import run
from tests.servers.postgres import Postgres

_numbers = itertools.count()
RULES = {"findings": interlock.merged("append")}
ROLES = {
    "reader": "'reader'",
    "writer": "'writer'",
    "bound": "'writer', true",
    "operator": "'operator'",
}


class Store:
    """A store of the test's own, with a role of each kind: `reader_7` and so on."""

    def __init__(self, server: Postgres) -> None:
        self.number = next(_numbers)
        run(server.url(), f"CREATE DATABASE roles{self.number}")
        self.server = server
        self.owner = server.url(f"roles{self.number}")
        with interlock.open(self.owner, "s", "boss", rules=RULES) as space:
            space.create("k", 1)
            space.append("findings", "a")
        for role, arguments in ROLES.items():
            run(self.owner, f"CREATE ROLE {self.role(role)} LOGIN")
            run(self.owner, f"SELECT interlock.grant_role('{self.role(role)}', {arguments})")

    def role(self, role: str) -> str:
        """Return the name of a role in the database."""
        return f"{role}_{self.number}"

    def url(self, role: str) -> str:
        """Return the address for a role."""
        return self.server.url(f"roles{self.number}", self.role(role))

    def call(self, role: str, statement: str) -> Any:
        """Run a statement as a role."""
        return run(self.url(role), statement)


@pytest.fixture(scope="module")
def store(postgres_server: Postgres) -> Store:
    """One store for all tests: they change little in it."""
    return Store(postgres_server)


def single(
    key: str = "'x'", agent: str = "'me'", kind: str = "'put'", body: str = "'1'", op: str = "'o'"
) -> str:
    """Return the statement of a commit of one key."""
    return (
        f"SELECT interlock.commit_single(1, {op}, {agent}, 0, 1, false, NULL, {key}, NULL, NULL,"
        f" {kind}, {body}, NULL, 0, '', true)"
    )


def plan(**fields: Any) -> str:
    """Return the statement of a commit of a plan."""
    whole = {
        "n": 0,
        "op": "p",
        "agent": "me",
        "incarnation": 0,
        "rules": 0,
        "ticket": 0,
        "yields": False,
        "expects": [],
        "versions": [],
        "epochs": [],
        "kinds": ["put"],
        "writes": ["x"],
        "bodies": ["1"],
        "leased": [],
    }
    text = json.dumps([whole | fields])
    return f"SELECT interlock.commit(1, '{text}', 0, '', true)"


ENTER = "SELECT interlock.enter(1, 'boss', true, 'mine')"
LEASE = "SELECT interlock.take_lease(1, ARRAY['k'], 'n', '{}', 0, 1000000, 0, 0, {})"
TABLES = [
    "SELECT * FROM interlock.log",
    "INSERT INTO interlock.answers VALUES ('x', 0, '[]')",
    "UPDATE interlock.heads SET epoch = 99",
    "DELETE FROM interlock.log",
    "TRUNCATE interlock.agents",
    "CREATE TABLE interlock.mine (n int)",
    "CREATE FUNCTION interlock.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP SCHEMA interlock CASCADE",
    "SELECT interlock.grant_role('PUBLIC', 'operator')",
    "SELECT interlock.keep_fold(1, 'findings', 9, '[]')",
    "SELECT interlock.apply(1, 9, 0, 'o', 'me', NULL, 'put', 'k', '1', NULL, false)",
]
OPERATORS = [
    "SELECT interlock.trim(1, 1, '{}', '{}', 0)",
    "SELECT interlock.save_fold(1, 'findings', 9, '[]', 1, 0)",
    "SELECT interlock.save_projection(1, '$projection/p', 1, '{}', 0)",
    "SELECT interlock.drop_projection(1, '$projection/p')",
    "SELECT interlock.drop_group(1, 'g')",
    LEASE.format("me", "true"),
    single(key="'$rules'"),
    plan(writes=["x", "$rules"], kinds=["put", "put"], bodies=["1", "{}"]),
    single(kind="'fold'"),
    plan(kinds=["fold"]),
    single(key="''"),
    single(key="repeat('k', 513)"),
    single(op="''"),
]
WRITERS = [
    single(),
    plan(),
    ENTER,
    LEASE.format("me", "false"),
    "SELECT interlock.drop_lease(1, 'k', 1, '')",
    "SELECT interlock.take_turn(1, '{k}', 'n', 'me', 1000000, 0, false, '{}')",
    "SELECT interlock.leave_turn(1, 1, 'n')",
    "SELECT interlock.open_space('another', true)",
    "SELECT interlock.add_refusals(1, '[]', 1)",
    "SELECT interlock.read_group(1, 'g', 'c', '', 0, 1, 1000000, false, 'n', 10, 1000000)",
    "SELECT interlock.ack_group(1, 'g', 'c', '{1}', '{1}')",
]
OTHERS = [
    single(),
    plan(),
    ENTER,
    LEASE.format("boss", "false"),
    "SELECT interlock.take_turn(1, '{k}', 'n', 'boss', 1000000, 0, false, '{}')",
    single(key="'$run/r'", agent="session_user"),
]
REFUSED = [
    *[("reader", each) for each in (*TABLES, *OPERATORS, *WRITERS)],
    *[("writer", each) for each in (*TABLES, *OPERATORS)],
    *[("bound", each) for each in (*TABLES, *OPERATORS, *OTHERS)],
    *[("operator", each) for each in TABLES],
]


@pytest.mark.parametrize("role", ROLES)
def test_server_refuses_what_a_role_may_not_do(store: Store, role: str) -> None:
    statements = [statement for who, statement in REFUSED if who == role]
    assert len(statements) >= 11
    before = store.call("reader", "SELECT interlock.log_end(1)")
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pytest.fail(f"{role} may: {statement} {store.call(role, statement)}")
    assert store.call("reader", "SELECT interlock.log_end(1)") == before


@pytest.mark.parametrize("role", ["writer", "bound", "operator"])
def test_body_that_is_no_json_is_refused(store: Store, role: str) -> None:
    for body in ("'{'", "'NaN'", "''"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            store.call(role, single(body=body, agent="session_user"))


def test_bound_writer_cannot_end_the_lease_of_another_agent(store: Store) -> None:
    with interlock.open(store.owner, "s", "boss") as space:
        lease = space.lease("held", ttl=60).acquire()
        epoch = lease.epoch
        store.call("bound", f"SELECT interlock.drop_lease(1, 'held', {epoch}, '')")
        claims = plan(agent=store.role("bound"), writes=["held"], leased=["held"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            store.call("bound", claims)
        assert lease.write("draft").epoch == epoch
        lease.release()


@pytest.mark.parametrize("facade", ["sync", "async"])
def test_roles_do_what_they_are_for(store: Store, facade: str) -> None:
    facades = Facades(facade, store.url("reader"), "s")
    reader = facades.open("reader")
    assert reader.read("k").version >= 1
    assert reader.scan("k")
    uses: list[Callable[[], Any]] = [
        lambda: reader.create("x", 1),
        lambda: reader.update("k", lambda n: n, touch=True),
        lambda: reader.lease("k").acquire(),
    ]
    for use in uses:
        with pytest.raises(interlock.Unavailable, match="permission denied"):
            use()
    facades.close()
    for role in ("writer", "bound", "operator"):
        facades = Facades(facade, store.url(role), "s")
        space = facades.open(store.role(role), rules=RULES, exclusive=True)
        assert (
            space.update(f"{role}/{facade}", lambda n: n + 1, default=0, turns="always").value == 1
        )
        space.append("findings", role)
        with space.lease("report") as lease:
            lease.write(role)
        with pytest.raises(interlock.Conflict):
            space.create("k", 1)
        if role == "operator":
            space.reclaim("report")
        else:
            with pytest.raises(interlock.Unavailable, match="only an operator"):
                space.reclaim("report")
        facades.close()


def test_every_function_that_the_library_calls_belongs_to_a_role(store: Store) -> None:
    granted = store.call(
        "reader",
        "SELECT proname FROM pg_proc WHERE pronamespace = 'interlock'::regnamespace AND"
        f" has_function_privilege('{store.role('operator')}', oid, 'EXECUTE')",
    )
    ours = {each.__name__[1:] for each in calls._CALLS.values()}
    ours |= {"open_space", "load", "read_log", "log_end", "listen_until", "add_refusals"}
    assert ours <= {name for (name,) in granted}


READING = (
    *(["get", "k"], ["keys"], ["log"], ["history", "k"], ["at", "k", "--position", "2"]),
    *(["rules", "show"], ["groups", "list"], ["conflicts"], ["runs", "list"], ["breakers", "list"]),
    *(["export"], ["check-store"], ["watch", "--after", "0", "--limit", "1"]),
)


def test_a_reader_runs_every_command_that_reads(store: Store) -> None:
    url = store.url("reader")
    for command in READING:
        told = CliRunner().invoke(main, [*command, "--store", url, "--space", "s"])
        assert told.exit_code == 0, (command, told.output)
    for command in (["spaces", url], ["doctor", url]):
        assert CliRunner().invoke(main, command).exit_code == 0, command


def test_only_an_operator_changes_whole_spaces(store: Store) -> None:
    with interlock.Store(store.url("operator")) as operator:
        operator.create("theirs")
        lines = list(operator.export("theirs"))
        for role in ("reader", "writer", "bound"):
            with interlock.Store(store.url(role)) as other:
                for call, arguments in (
                    (other.drop, ("theirs",)),
                    (other.rename, ("theirs", "mine")),
                    (other.load, (lines, "mine")),
                ):
                    with pytest.raises(interlock.Unavailable, match="does not let this role"):
                        call(*arguments)
        assert operator.load(lines, "other").position == 0
        operator.rename("other", "another")
        operator.drop("another")
        operator.drop("theirs")
