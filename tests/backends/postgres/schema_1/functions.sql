-- The functions of a store in PostgreSQL, version 1.  Each answers one request in one round trip, and
-- nothing else touches the tables: a role that may only call them cannot go round the guards.
--
-- Tables: see schema.sql.  p_space is spaces.space, times are microseconds, clock_us is the server's clock.
-- The functions that write lock the row of the space first and see everything committed before; those
-- that read are STABLE, so that all of an answer is one moment.

-- One row of an answer.  what: what the row tells (each function's header lists its own); n: the number
-- of the plan, key or prefix that it is about.  A record has key, body, version, epoch, agent, time,
-- position and live; for a merged key (live 2) base is the saved fold, body the contributions since as
-- a JSON array, and extra how many.
CREATE TYPE interlock.answer AS (
    what text, n integer, key text, kind text, body text, base text, version bigint, epoch bigint,
    agent text, time bigint, position bigint, live integer, extra bigint
);

CREATE FUNCTION interlock.clock_us() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- Whether a lease or ticket holds.  One renewed in the future is dead: the clock stepped back.
CREATE FUNCTION interlock.alive(p_renewed bigint, p_expires bigint, p_now bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $$ SELECT p_expires > p_now AND p_renewed <= p_now + 1000000 $$;

-- The schema version of the store.
CREATE FUNCTION interlock.version() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1 $$;

-- The space of a name, made where it does not exist: (space, uid).
CREATE FUNCTION interlock.open_space(p_name text) RETURNS TABLE (space integer, uid text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT s.space, s.uid FROM spaces AS s WHERE s.name = p_name;
    IF NOT FOUND THEN
        INSERT INTO spaces (name, uid, created)
        VALUES (p_name, replace(gen_random_uuid()::text, '-', ''), clock_us())
        ON CONFLICT DO NOTHING;
        RETURN QUERY SELECT s.space, s.uid FROM spaces AS s WHERE s.name = p_name;
    END IF;
END $$;

-- Reading

-- The record of a key, now.  `what` and `n` are given back.
CREATE FUNCTION interlock.record(p_space integer, p_key text, p_what text, p_n integer)
RETURNS SETOF answer LANGUAGE plpgsql STABLE
AS $$
DECLARE
    r answer;
    saved bigint;
BEGIN
    SELECT p_what, p_n, p_key, NULL, l.body, NULL, h.version, h.epoch, l.agent, l.time, l.position,
        h.live, NULL
    INTO r
    FROM heads AS h LEFT JOIN log AS l ON l.space = h.space AND l.position = h.entry
    WHERE h.space = p_space AND h.key = p_key;
    IF NOT FOUND THEN
        r.what := p_what; r.n := p_n; r.key := p_key; r.version := 0; r.epoch := 0; r.live := 0;
    ELSIF r.live = 2 THEN
        SELECT entry, body INTO saved, r.base FROM folds WHERE space = p_space AND key = p_key;
        SELECT '[' || COALESCE(string_agg(l.body, ',' ORDER BY l.position), '') || ']', count(*)
        INTO r.body, r.extra FROM log AS l
        WHERE l.space = p_space AND l.key = p_key AND l.position > COALESCE(saved, 0)
            AND l.kind = 'append';
    END IF;
    RETURN NEXT r;
END $$;

-- A consistent set of records and scans; p_ends[i] is the end of the prefix p_prefixes[i].  Rows: now
-- (time, position, extra: the version of the rules), key, scan (n: the number of the prefix), queued
-- (key, extra: how many), lease (key, agent, epoch, time: until it expires), op (an entry of the operation);
-- or, alone, back (position): the commit at p_seen of operation p_seen_op is not in the log.
CREATE FUNCTION interlock.load(
    p_space integer, p_keys text[], p_prefixes text[], p_ends text[], p_op text, p_seen bigint,
    p_seen_op text
) RETURNS SETOF answer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
    i integer;
    now_us bigint := clock_us();
BEGIN
    IF is_lost(p_space, p_seen, p_seen_op) THEN
        r.what := 'back'; r.position := log_end(p_space);
        RETURN NEXT r;
        RETURN;
    END IF;
    r.what := 'now';
    SELECT now_us, s.position, COALESCE(h.version, 0) INTO r.time, r.position, r.extra
    FROM spaces AS s LEFT JOIN heads AS h ON h.space = s.space AND h.key = '$rules'
    WHERE s.space = p_space;
    RETURN NEXT r;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        RETURN QUERY SELECT * FROM record(p_space, p_keys[i], 'key', i - 1);
    END LOOP;
    FOR i IN 1 .. cardinality(p_prefixes) LOOP
        RETURN QUERY SELECT 'scan', i - 1, h.key, NULL, l.body, NULL, h.version, h.epoch, l.agent,
            l.time, l.position, h.live, NULL::bigint
        FROM heads AS h JOIN log AS l ON l.space = h.space AND l.position = h.entry
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND (p_ends[i] IS NULL OR h.key < p_ends[i])
            AND h.live = 1 AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
        RETURN QUERY SELECT m.* FROM heads AS h, record(p_space, h.key, 'scan', i - 1) AS m
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND (p_ends[i] IS NULL OR h.key < p_ends[i])
            AND h.live = 2 AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
    END LOOP;
    IF EXISTS (SELECT 1 FROM tickets AS t WHERE t.space = p_space) THEN
        RETURN QUERY SELECT 'queued', 0, q.key, NULL, NULL, NULL, NULL::bigint, NULL::bigint, NULL,
            NULL::bigint, NULL::bigint, NULL::integer, count(*)
        FROM ticket_keys AS q JOIN tickets AS t ON t.space = q.space AND t.ticket = q.ticket
        WHERE q.space = p_space AND q.key = ANY (p_keys) AND alive(t.renewed, t.expires, now_us)
        GROUP BY q.key;
    END IF;
    RETURN QUERY SELECT 'lease', 0, l.key, NULL, NULL, NULL, NULL::bigint, l.epoch, l.holder,
        l.expires - now_us, NULL::bigint, NULL::integer, NULL::bigint
    FROM leases AS l
    WHERE l.space = p_space AND l.key = ANY (p_keys) AND alive(l.renewed, l.expires, now_us);
    IF p_op IS NOT NULL THEN
        RETURN QUERY SELECT * FROM operation(p_space, p_op, 0);
    END IF;
END $$;

-- The position that the log is cut up to, 0 where it is whole.
CREATE FUNCTION interlock.floor_of(p_space integer) RETURNS bigint LANGUAGE sql STABLE
AS $$ SELECT trimmed FROM spaces WHERE space = p_space $$;

-- Whether a commit that the caller knows of (p_seen 0: none) is not in the log: commits were lost.
CREATE FUNCTION interlock.is_lost(p_space integer, p_seen bigint, p_seen_op text) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT p_seen > 0 AND NOT EXISTS (
        SELECT 1 FROM log WHERE space = p_space AND position = p_seen AND op = p_seen_op)
    AND p_seen > floor_of(p_space)
$$;

-- The entries of an operation, in order.  Rows: op (kind).
CREATE FUNCTION interlock.operation(p_space integer, p_op text, p_n integer) RETURNS SETOF answer
LANGUAGE sql STABLE
AS $$
    SELECT 'op', p_n, key, kind, body, NULL, version, epoch, agent, time, position, NULL::integer,
        NULL::bigint
    FROM log WHERE space = p_space AND op = p_op ORDER BY position
$$;

-- The record of a key as of a position.
CREATE FUNCTION interlock.record_at(
    p_space integer, p_key text, p_position bigint, p_what text, p_n integer
) RETURNS SETOF answer LANGUAGE plpgsql STABLE
AS $$
DECLARE
    r answer;
    saved bigint;
BEGIN
    SELECT p_what, p_n, p_key, l.kind, l.body, NULL, l.version, l.epoch, l.agent, l.time, l.position,
        CASE WHEN l.kind = 'delete' THEN 0 WHEN l.kind IN ('append', 'fold') THEN 2 ELSE 1 END, NULL
    INTO r
    FROM log AS l WHERE l.space = p_space AND l.key = p_key AND l.position <= p_position
    ORDER BY l.position DESC LIMIT 1;
    IF NOT FOUND THEN
        r.what := p_what; r.n := p_n; r.key := p_key; r.version := 0; r.epoch := 0; r.live := 0;
    ELSIF r.live = 2 THEN
        SELECT entry, body INTO saved, r.base FROM folds
        WHERE space = p_space AND key = p_key AND entry <= p_position;
        IF NOT FOUND THEN
            SELECT l.position, l.body INTO saved, r.base FROM log AS l
            WHERE l.space = p_space AND l.key = p_key AND l.position <= p_position
                AND l.kind IN ('delete', 'fold')
            ORDER BY l.position DESC LIMIT 1;
        END IF;
        SELECT '[' || COALESCE(string_agg(l.body, ',' ORDER BY l.position), '') || ']', count(*)
        INTO r.body, r.extra FROM log AS l
        WHERE l.space = p_space AND l.key = p_key AND l.position > COALESCE(saved, 0)
            AND l.position <= p_position AND l.kind = 'append';
    END IF;
    RETURN NEXT r;
END $$;

-- As `load`, as of a position, or (p_position NULL) of a time.  Rows: now, key, scan; or, alone, pruned
-- (position: what was asked for, extra: the position that the log is cut up to).
CREATE FUNCTION interlock.load_at(
    p_space integer, p_position bigint, p_time bigint, p_keys text[], p_prefixes text[], p_ends text[]
) RETURNS SETOF answer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
    i integer;
    floor bigint := floor_of(p_space);
    low bigint := floor;
    high bigint;
    middle bigint;
    found_us bigint;
BEGIN
    r.what := 'now'; r.time := clock_us();
    SELECT s.position, COALESCE(h.version, 0) INTO high, r.extra
    FROM spaces AS s LEFT JOIN heads AS h ON h.space = s.space AND h.key = '$rules'
    WHERE s.space = p_space;
    IF p_position IS NOT NULL THEN
        r.position := LEAST(p_position, high);
    ELSE  -- times never fall along the log
        WHILE low < high LOOP
            middle := (low + high + 1) / 2;
            SELECT time INTO found_us FROM log WHERE space = p_space AND position = middle;
            IF found_us <= p_time THEN low := middle; ELSE high := middle - 1; END IF;
        END LOOP;
        r.position := low;
        IF low = floor AND floor > 0 THEN  -- its row is there: it is the last of its key
            SELECT time INTO found_us FROM log WHERE space = p_space AND position = floor;
            IF found_us > p_time THEN r.position := 0; END IF;
        END IF;
    END IF;
    IF r.position < floor THEN
        r.what := 'pruned'; r.extra := floor;
        RETURN NEXT r;
        RETURN;
    END IF;
    RETURN NEXT r;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        RETURN QUERY SELECT * FROM record_at(p_space, p_keys[i], r.position, 'key', i - 1);
    END LOOP;
    FOR i IN 1 .. cardinality(p_prefixes) LOOP
        RETURN QUERY SELECT m.*
        FROM heads AS h, record_at(p_space, h.key, r.position, 'scan', i - 1) AS m
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND (p_ends[i] IS NULL OR h.key < p_ends[i])
            AND h.version > 0 AND m.live > 0 AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
    END LOOP;
END $$;

-- At most p_limit entries after a position (-1: from the oldest that is kept): of one key, of a prefix and
-- its end, or all of them.  The first row has no key: its position is where the log ends, its version what
-- the log is cut up to, and its kind is back where the commit at p_seen of operation p_seen_op is not in it.
CREATE FUNCTION interlock.read_log(
    p_space integer, p_after bigint, p_limit integer, p_key text, p_prefix text, p_end text,
    p_seen bigint, p_seen_op text
) RETURNS TABLE (
    "position" bigint, key text, version bigint, epoch bigint, kind text, body text, agent text,
    "time" bigint, op text, reads text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    floor bigint := floor_of(p_space);
BEGIN
    p_after := GREATEST(p_after, floor);
    RETURN QUERY SELECT s.position, NULL, floor, NULL::bigint,
        CASE WHEN is_lost(p_space, p_seen, p_seen_op) THEN 'back' END, NULL, NULL, NULL::bigint, NULL,
        NULL FROM spaces AS s WHERE s.space = p_space;
    IF p_key IS NOT NULL THEN
        RETURN QUERY SELECT l.position, l.key, l.version, l.epoch, l.kind, l.body, l.agent, l.time,
            l.op, l.reads
        FROM log AS l WHERE l.space = p_space AND l.key = p_key AND l.position > p_after
        ORDER BY l.position LIMIT p_limit;
    ELSE
        RETURN QUERY SELECT l.position, l.key, l.version, l.epoch, l.kind, l.body, l.agent, l.time,
            l.op, l.reads
        FROM log AS l WHERE l.space = p_space AND l.position > p_after
            AND l.key >= p_prefix AND (p_end IS NULL OR l.key < p_end)
        ORDER BY l.position LIMIT p_limit;
    END IF;
END $$;

-- Where the log of a space ends.
CREATE FUNCTION interlock.log_end(p_space integer) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ SELECT position FROM spaces WHERE space = p_space $$;

-- Writers tell the channel interlock_<space> their position until p_until.  Where nobody listens they
-- do not: a commit with a notification takes a lock that the whole server shares.
CREATE FUNCTION interlock.listen_until(p_space integer, p_seconds double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    end_of_log bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE spaces SET listened = GREATEST(listened, clock_us() + (p_seconds * 1000000)::bigint)
    WHERE space = p_space RETURNING position INTO end_of_log;
    RETURN end_of_log;
END $$;

-- Refusals

-- Keeps refusals (an array of objects) and forgets the oldest.
CREATE FUNCTION interlock.add_refusals(p_space integer, p_notes json, p_kept integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO refusals (space, key, agent, reason, other, behind, time, op)
    SELECT p_space, n.key, n.agent, n.reason, n.other, n.behind, n.time, n.op
    FROM json_to_recordset(p_notes)
        AS n(key text, agent text, reason text, other text, behind bigint, time bigint, op text);
    DELETE FROM refusals WHERE space = p_space AND id <= (
        SELECT id FROM refusals WHERE space = p_space ORDER BY id DESC OFFSET p_kept LIMIT 1);
END $$;

-- The last refusals, the newest first.
CREATE FUNCTION interlock.read_refusals(p_space integer, p_limit integer)
RETURNS TABLE (
    key text, agent text, reason text, other text, behind bigint, "time" bigint, op text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT key, agent, reason, other, behind, time, op FROM refusals
    WHERE space = p_space ORDER BY id DESC LIMIT p_limit
$$;
