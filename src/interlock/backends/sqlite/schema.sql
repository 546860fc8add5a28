-- The schema of a store, version 2.  Times are microseconds since 1970 (UTC), by the store's clock.
--
-- spaces        one row a space; uid tells records of one space from those of another.  The log is
--               kept after position `trimmed`; up to there, of each key the last row is left: as it
--               was, or (kind fold) a merged key's fold.  erasures: steps in which values were erased, so
--               that no cache brings back what was read before.  importing: the source of an import that
--               is not finished; nobody else can open the space then.  A dropped space leaves a row whose
--               name is a blank and its uid, so that its number is never used again
-- log           the truth: one row a write of a commit.  id is space * 2^40 + position, so that the rows
--               of a space lie together in commit order; positions are gapless within a space.  expires:
--               when its value does, null where it does not.  A row without a body that is no deletion was
--               erased
-- heads         one row a key, tombstones included: its version, its epoch, and the id of the log row
--               that holds its value.  A value stands in the log only, so the two cannot disagree.
--               live: 0 deleted, or leased and never written (version 0); 1 a value; 2 contributions; above
--               that a value until this time, from when on the key does not exist
-- folds         a cache: the fold of a merged key's contributions up to the log row `entry`; no body
--               where it begins anew after that row; and, by a key that begins with $projection/, what
--               is kept of a projection, which holds the log after it
-- leases        one row a lease that was not given up; expired ones stay until somebody writes or asks
-- agents        the incarnation of each agent name that was ever opened exclusively
-- refusals      the last refusals, for `interlock conflicts`
-- tickets       places in the queues for keys; ticket numbers are never used twice
-- ticket_keys   which queues a ticket stands in
-- ticket_holds  the names of the leases and tickets that whoever waits with a ticket has meanwhile
-- groups        consumer groups: the log is dealt to the consumers up to position `cursor`
-- group_consumers  last sign of life of each consumer, its ttl, and the positions that it acknowledged
--               last (a JSON array)
-- group_pending    entries that were dealt and are not acknowledged.  batch: the request that delivered
--               them to the consumer, "" where none has yet.  All of a key are with one consumer

CREATE TABLE spaces (
    space INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uid TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    trimmed INTEGER NOT NULL DEFAULT 0,
    importing TEXT,
    erasures INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    agent TEXT NOT NULL,
    time INTEGER NOT NULL,
    op TEXT NOT NULL,
    reads TEXT,
    expires INTEGER
);

CREATE INDEX log_by_key ON log (space, key);

CREATE INDEX log_by_op ON log (space, op);

CREATE TABLE heads (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) WITHOUT ROWID;

CREATE INDEX heads_by_expiry ON heads (space, live) WHERE live > 2;

CREATE TABLE tickets (
    ticket INTEGER PRIMARY KEY AUTOINCREMENT,
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    agent TEXT NOT NULL,
    renewed INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    firm INTEGER NOT NULL,
    UNIQUE (space, name)
);

CREATE TABLE ticket_keys (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    PRIMARY KEY (space, key, ticket)
) WITHOUT ROWID;

CREATE INDEX ticket_keys_by_ticket ON ticket_keys (ticket);

CREATE TABLE ticket_holds (
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    PRIMARY KEY (space, name, ticket)
) WITHOUT ROWID;

CREATE INDEX ticket_holds_by_ticket ON ticket_holds (ticket);

CREATE TABLE folds (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    entry INTEGER NOT NULL,
    body TEXT,
    UNIQUE (space, key)
);

CREATE TABLE leases (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,
    name TEXT NOT NULL,
    renewed INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) WITHOUT ROWID;

CREATE TABLE agents (
    space INTEGER NOT NULL,
    agent TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (space, agent)
) WITHOUT ROWID;

CREATE TABLE refusals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    agent TEXT NOT NULL,
    reason TEXT NOT NULL,
    other TEXT,
    behind INTEGER,
    time INTEGER NOT NULL,
    op TEXT NOT NULL
);

CREATE INDEX refusals_by_space ON refusals (space);

CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    UNIQUE (space, name)
);

CREATE TABLE group_consumers (
    group_id INTEGER NOT NULL,
    consumer TEXT NOT NULL,
    seen INTEGER NOT NULL,
    ttl INTEGER NOT NULL,
    acked TEXT NOT NULL,
    PRIMARY KEY (group_id, consumer)
) WITHOUT ROWID;

CREATE TABLE group_pending (
    group_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    consumer TEXT NOT NULL,
    batch TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    PRIMARY KEY (group_id, position)
) WITHOUT ROWID;

CREATE INDEX group_pending_by_key ON group_pending (group_id, key);

CREATE INDEX group_pending_by_consumer ON group_pending (group_id, consumer, batch, position);
