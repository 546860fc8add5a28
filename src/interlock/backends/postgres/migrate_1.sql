-- From schema version 1 of a store in PostgreSQL to version 2: what changes in the tables.  The functions
-- and their types are gone when it runs, and are made anew after it.

ALTER TABLE interlock.heads DROP COLUMN version, DROP COLUMN entry, ALTER COLUMN live TYPE bigint;

CREATE INDEX heads_by_expiry ON interlock.heads (space, live) WHERE live > 2;

ALTER TABLE interlock.log ADD COLUMN expires bigint;

CREATE SEQUENCE interlock.ticket_numbers;

SELECT setval('interlock.ticket_numbers', 1 + COALESCE(max(tickets), 0)) FROM interlock.spaces;

ALTER TABLE interlock.spaces DROP COLUMN position, DROP COLUMN time, DROP COLUMN tickets;

ALTER TABLE interlock.spaces ADD COLUMN importing text;

CREATE UNLOGGED TABLE interlock.answers (
    id text PRIMARY KEY,
    made_at bigint NOT NULL,
    rows json NOT NULL
);

-- Rows from before that are no JSON were put there by hand; they do not stop the migration.
ALTER TABLE interlock.log
ADD CONSTRAINT log_body_is_json CHECK (body IS NULL OR body::json IS NOT NULL) NOT VALID;

DO $$
BEGIN
    ALTER TABLE interlock.log VALIDATE CONSTRAINT log_body_is_json;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'interlock.log has bodies that are not JSON';
END $$;

CREATE INDEX ticket_keys_by_ticket ON interlock.ticket_keys (space, ticket);

CREATE UNLOGGED TABLE interlock.ticket_holds (
    space integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    ticket bigint NOT NULL,
    PRIMARY KEY (space, name, ticket)
);

CREATE INDEX ticket_holds_by_ticket ON interlock.ticket_holds (space, ticket);

ALTER TABLE interlock.spaces ADD COLUMN erasures bigint NOT NULL DEFAULT 0;

-- To give a column the type that it has takes its statistics away.
ALTER TABLE interlock.log ALTER COLUMN body TYPE text, ALTER COLUMN body SET STATISTICS 0;

ALTER TABLE interlock.folds ALTER COLUMN body TYPE text, ALTER COLUMN body SET STATISTICS 0;
