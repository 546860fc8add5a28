-- The tables of a store in PostgreSQL, version 2, in a schema of their own.  Times are microseconds
-- since 1970 (UTC) by the server's clock; keys compare by their bytes.
--
-- A commit only inserts rows of the log: rows that every commit updated would get slower and slower to
-- find while an old snapshot (pg_dump, a forgotten transaction) keeps each of their versions.
--
-- spaces        one row a space, and until when somebody listens for news of it.  Whoever writes to a space
--               locks its row first, so that positions are gapless and in commit order.  The log is kept
--               after position `trimmed`; up to there, of each key the last row is left: as it was, or
--               (kind fold) a merged key's fold.  erasures: steps in which values were erased, so that no
--               cache brings back what was read before.  importing: the source of an import that is not
--               finished; nobody else can open the space then
-- log           the truth: one row a write of a commit.  Its last row says where the log ends, and the last
--               row of a key what the key holds: value, version, epoch.  A row without a body that is no
--               deletion was erased.  No statistics are made of values: they would keep samples
-- heads         one row a key, tombstones included, to find keys by prefix: its live (0 deleted, or leased
--               and never written; 1 a value; 2 contributions), and what leases have raised its epoch to
-- folds         a cache: the fold of a merged key's contributions up to a position; no body where it
--               begins anew after that position; and, by a key that begins with $projection/, what is
--               kept of a projection, which holds the log after it
-- leases        one row a lease that was not given up; expired ones stay until somebody writes or asks
-- agents        the incarnation of each agent name that was ever opened exclusively
-- refusals      the last refusals, for `interlock conflicts`
-- ticket_numbers  numbers of tickets, drawn under the lock of the space
-- tickets       places in the queues for keys; unlogged, because they decide who thinks next and never
--               what may be written
-- ticket_keys   which queues a ticket stands in
-- ticket_holds  the names of the leases and tickets that whoever waits with a ticket has meanwhile
-- answers       what was too much to be sent under the lock of a space, for a minute
-- groups        one row a consumer group: which keys it is about, and what it has dealt the log up to
-- group_consumers  the consumers of a group: last sign of life, for how long it counts, and the positions
--               that it acknowledged last
-- group_pending one row an entry that was dealt and is not acknowledged: whose it is, how often it was
--               delivered, and by which request last (batch; '' where it waits to be delivered).  All
--               rows of a key are with one consumer

CREATE TABLE interlock.spaces (
    space integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    uid text NOT NULL UNIQUE,
    created bigint NOT NULL,
    listened bigint NOT NULL DEFAULT 0,
    trimmed bigint NOT NULL DEFAULT 0,
    importing text,
    erasures bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE interlock.log (
    space integer NOT NULL,
    position bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    epoch bigint NOT NULL,
    kind text NOT NULL,
    body text CONSTRAINT log_body_is_json CHECK (body IS NULL OR body::json IS NOT NULL),
    agent text NOT NULL,
    time bigint NOT NULL,
    op text COLLATE "C" NOT NULL,
    reads text,
    expires bigint,
    PRIMARY KEY (space, position)
);

ALTER TABLE interlock.log ALTER COLUMN body SET STATISTICS 0;

CREATE INDEX log_by_key ON interlock.log (space, key, position);

CREATE INDEX log_by_op ON interlock.log (space, op);

CREATE TABLE interlock.heads (
    space integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    live bigint NOT NULL,
    PRIMARY KEY (space, key)
) WITH (fillfactor = 70);

CREATE INDEX heads_by_expiry ON interlock.heads (space, live) WHERE live > 2;

CREATE SEQUENCE interlock.ticket_numbers;

CREATE UNLOGGED TABLE interlock.tickets (
    space integer NOT NULL,
    ticket bigint NOT NULL,
    name text NOT NULL,
    agent text NOT NULL,
    renewed bigint NOT NULL,
    expires bigint NOT NULL,
    firm boolean NOT NULL,
    PRIMARY KEY (space, ticket),
    UNIQUE (space, name)
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE interlock.ticket_keys (
    space integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    ticket bigint NOT NULL,
    PRIMARY KEY (space, key, ticket)
);

CREATE INDEX ticket_keys_by_ticket ON interlock.ticket_keys (space, ticket);

CREATE UNLOGGED TABLE interlock.ticket_holds (
    space integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    ticket bigint NOT NULL,
    PRIMARY KEY (space, name, ticket)
);

CREATE INDEX ticket_holds_by_ticket ON interlock.ticket_holds (space, ticket);

CREATE TABLE interlock.folds (
    space integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    entry bigint NOT NULL,
    body text,
    PRIMARY KEY (space, key)
);

ALTER TABLE interlock.folds ALTER COLUMN body SET STATISTICS 0;

CREATE TABLE interlock.leases (
    space integer NOT NULL,
    key text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    name text NOT NULL,
    renewed bigint NOT NULL,
    expires bigint NOT NULL,
    PRIMARY KEY (space, key)
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE interlock.answers (
    id text PRIMARY KEY,
    made_at bigint NOT NULL,
    rows json NOT NULL
);

CREATE TABLE interlock.agents (
    space integer NOT NULL,
    agent text NOT NULL,
    incarnation bigint NOT NULL,
    name text NOT NULL,
    PRIMARY KEY (space, agent)
);

CREATE TABLE interlock.refusals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space integer NOT NULL,
    key text NOT NULL,
    agent text NOT NULL,
    reason text NOT NULL,
    other text,
    behind bigint,
    time bigint NOT NULL,
    op text NOT NULL
);

CREATE INDEX refusals_by_space ON interlock.refusals (space, id);

CREATE TABLE interlock.groups (
    group_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    space integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    prefix text COLLATE "C" NOT NULL,
    cursor bigint NOT NULL,
    UNIQUE (space, name)
) WITH (fillfactor = 50);

CREATE TABLE interlock.group_consumers (
    group_id bigint NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    seen bigint NOT NULL,
    ttl bigint NOT NULL,
    acked bigint[] NOT NULL,
    PRIMARY KEY (group_id, consumer)
) WITH (fillfactor = 50);

CREATE TABLE interlock.group_pending (
    group_id bigint NOT NULL,
    position bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    batch text COLLATE "C" NOT NULL,
    deliveries integer NOT NULL,
    PRIMARY KEY (group_id, position)
);

CREATE INDEX group_pending_by_key ON interlock.group_pending (group_id, key);

CREATE INDEX group_pending_by_consumer
ON interlock.group_pending (group_id, consumer, batch, position);
