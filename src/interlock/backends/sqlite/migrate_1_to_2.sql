-- Brings a store from schema version 1 to 2.  Columns are added at the end of their tables, in `schema.sql`, too.

CREATE INDEX ticket_keys_by_ticket ON ticket_keys (ticket);

CREATE TABLE ticket_holds (
    space INTEGER NOT NULL,
    name TEXT NOT NULL,
    ticket INTEGER NOT NULL,
    PRIMARY KEY (space, name, ticket)
) WITHOUT ROWID;

CREATE INDEX ticket_holds_by_ticket ON ticket_holds (ticket);

ALTER TABLE spaces ADD COLUMN importing TEXT;

ALTER TABLE spaces ADD COLUMN erasures INTEGER NOT NULL DEFAULT 0;

ALTER TABLE log ADD COLUMN expires INTEGER;

CREATE INDEX heads_by_expiry ON heads (space, live) WHERE live > 2;
