-- A store of schema version 1, as Interlock 0.1.0 made it: records, a merged key with its fold, a tombstone,
-- a lease, a ticket, a consumer group and a refusal.  Never changed: every later version must open it.

PRAGMA application_id=1229734731;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE agents (
    space INTEGER NOT NULL,
    agent TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (space, agent)
) WITHOUT ROWID;
CREATE TABLE folds (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    entry INTEGER NOT NULL,
    body TEXT,
    UNIQUE (space, key)
);
CREATE TABLE group_consumers (
    group_id INTEGER NOT NULL,
    consumer TEXT NOT NULL,
    seen INTEGER NOT NULL,
    ttl INTEGER NOT NULL,
    acked TEXT NOT NULL,
    PRIMARY KEY (group_id, consumer)
) WITHOUT ROWID;
INSERT INTO "group_consumers" VALUES(1,'r1',1795908277201407,5000000,'[]');
CREATE TABLE group_pending (
    group_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    consumer TEXT NOT NULL,
    batch TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    PRIMARY KEY (group_id, position)
) WITHOUT ROWID;
INSERT INTO "group_pending" VALUES(1,2,'plan','r1','1a2247993d19b0f62e8b97492aefe3/0',1);
INSERT INTO "group_pending" VALUES(1,3,'plan','r1','1a2247993d19b0f62e8b97492aefe3/0',1);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    UNIQUE (space, name)
);
INSERT INTO "groups" VALUES(1,1,'readers','',3);
CREATE TABLE heads (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    live INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) WITHOUT ROWID;
INSERT INTO "heads" VALUES(1,'$rules',1,0,1099511627777,1);
INSERT INTO "heads" VALUES(1,'findings',2,0,1099511627781,2);
INSERT INTO "heads" VALUES(1,'gone',2,0,1099511627783,0);
INSERT INTO "heads" VALUES(1,'plan',2,0,1099511627779,1);
INSERT INTO "heads" VALUES(1,'report',0,1,0,0);
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
INSERT INTO "leases" VALUES(1,'report',1,'planner','1a2247993cb9b0f62e8b97492aefe2',1795908277195606,1795908307195606);
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
    reads TEXT
);
INSERT INTO "log" VALUES(1099511627777,1,'$rules',1,0,'put','{"findings": {"rule": "merged", "reducer": "append"}}','planner',1795908277185029,'1a2247993c09b0f62e8b97492aefe1','{"findings*": {}}');
INSERT INTO "log" VALUES(1099511627778,1,'plan',1,0,'put','{"step":1}','planner',1795908277185907,'op-plan',NULL);
INSERT INTO "log" VALUES(1099511627779,1,'plan',2,0,'put','{"step":2}','planner',1795908277186493,'op-write',NULL);
INSERT INTO "log" VALUES(1099511627780,1,'findings',1,0,'append','"a"','planner',1795908277190256,'once-45cfc9bbe65920b246f92ef88f2e340666bb9a1f',NULL);
INSERT INTO "log" VALUES(1099511627781,1,'findings',2,0,'append','"b"','planner',1795908277191651,'once-019efb8ca7180e5096b689cdccf55c920eecf1ae',NULL);
INSERT INTO "log" VALUES(1099511627782,1,'gone',1,0,'put','1','planner',1795908277193254,'op-gone',NULL);
INSERT INTO "log" VALUES(1099511627783,1,'gone',2,0,'delete',NULL,'planner',1795908277194448,'op-delete',NULL);
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
INSERT INTO "refusals" VALUES(1,1,'plan','planner','Conflict','planner',16548,1795908277203041,'1a2247993d29b0f62e8b97492aefe4');
CREATE TABLE spaces (
    space INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    uid TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    trimmed INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "spaces" VALUES(1,'team','ab254fa33c08c077',1795908277183613,0);
CREATE TABLE ticket_keys (
    space INTEGER NOT NULL,
    key TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    PRIMARY KEY (space, key, ticket)
) WITHOUT ROWID;
INSERT INTO "ticket_keys" VALUES(1,'plan',1);
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
INSERT INTO "tickets" VALUES(1,1,'t1','planner',1795908277202431,1795908307202431,0);
CREATE INDEX log_by_key ON log (space, key);
CREATE INDEX log_by_op ON log (space, op);
CREATE INDEX refusals_by_space ON refusals (space);
CREATE INDEX group_pending_by_key ON group_pending (group_id, key);
CREATE INDEX group_pending_by_consumer ON group_pending (group_id, consumer, batch, position);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('groups',1);
INSERT INTO "sqlite_sequence" VALUES('tickets',1);
INSERT INTO "sqlite_sequence" VALUES('refusals',1);
COMMIT;
