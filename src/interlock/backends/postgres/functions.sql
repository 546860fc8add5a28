-- The functions of a store in PostgreSQL, version 2.  Each answers one request in one round trip, and
-- nothing else touches the tables: a role that may only call them cannot go round the guards.
--
-- Tables: see schema.sql.  p_space is spaces.space, times are microseconds, clock_us is the server's clock.
-- The functions that write lock the row of the space first and see everything committed before; those
-- that read are STABLE, so that all of an answer is one moment.

-- One row of an answer.  what: what the row tells (each function's header lists its own); n: the number
-- of the plan, key or prefix that it is about.  A record has key, body, version, epoch, agent, time,
-- position and live; for a merged key (live 2) base is the saved fold, body the contributions since as
-- a JSON array, and extra how many.  live is that of heads.live as of the moment of the answer: negative
-- where the value has expired at that time.
CREATE TYPE interlock.answer AS (
    what text, n integer, key text, kind text, body text, base text, version bigint, epoch bigint,
    agent text, time bigint, position bigint, live bigint, extra bigint
);

CREATE FUNCTION interlock.clock_us() RETURNS bigint LANGUAGE sql VOLATILE
AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- Whether a lease or ticket holds.  One renewed in the future is dead: the clock stepped back.
CREATE FUNCTION interlock.alive(p_renewed bigint, p_expires bigint, p_now bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $$ SELECT p_expires > p_now AND p_renewed <= p_now + 1000000 $$;

-- The schema version of the store.
CREATE FUNCTION interlock.version() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 2 $$;

-- The space of a name; importing: 1 where an import into it is not finished.  Where it does not exist, it is
-- made, or (p_create false) no row.
CREATE FUNCTION interlock.open_space(p_name text, p_create boolean)
RETURNS TABLE (space integer, uid text, importing integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT s.space, s.uid, (s.importing IS NOT NULL)::integer
    FROM spaces AS s WHERE s.name = p_name;
    IF NOT FOUND AND p_create THEN
        PERFORM check_writer();
        INSERT INTO spaces (name, uid, created)
        VALUES (p_name, replace(gen_random_uuid()::text, '-', ''), clock_us())
        ON CONFLICT DO NOTHING;
        RETURN QUERY SELECT s.space, s.uid, (s.importing IS NOT NULL)::integer
        FROM spaces AS s WHERE s.name = p_name;
    END IF;
END $$;

-- The space was dropped while it was open.
CREATE FUNCTION interlock.gone() RETURNS bigint LANGUAGE plpgsql
AS $$ BEGIN RAISE SQLSTATE 'ILK01' USING MESSAGE = 'the space was dropped'; END $$;

-- Locks a space: from the next statement on, all is seen that was committed before.  A stricter isolation
-- would see what was there before it waited for the lock.
CREATE FUNCTION interlock.lock_space(p_space integer) RETURNS spaces
LANGUAGE plpgsql SET search_path = interlock, pg_temp
AS $$
DECLARE
    s spaces;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING MESSAGE = 'Interlock needs the isolation READ COMMITTED';
    END IF;
    SELECT * INTO s FROM spaces WHERE space = p_space FOR UPDATE;
    IF NOT FOUND THEN PERFORM gone(); END IF;
    RETURN s;
END $$;

-- Answers

-- The rows of a function that holds the lock of a space.  Where they are so many bytes that the server could
-- block in sending them, with the lock, to a client that does not read, they are kept for a minute, and one
-- row says under which key (extra, or deliveries: -1); `fetch_answers` gives them after the commit.
CREATE FUNCTION interlock.bounded(p_rows answer[]) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    r answer;
BEGIN
    IF pg_column_size(p_rows) <= 24000 THEN
        RETURN QUERY SELECT * FROM unnest(p_rows);
    ELSE
        r.key := keep_answer(to_json(p_rows)); r.extra := -1;
        RETURN NEXT r;
    END IF;
END $$;

CREATE FUNCTION interlock.keep_answer(p_rows json) RETURNS text
LANGUAGE plpgsql SET search_path = interlock, pg_temp
AS $$
DECLARE
    made text := gen_random_uuid();
BEGIN
    DELETE FROM answers WHERE made_at < clock_us() - 60000000;
    INSERT INTO answers (id, made_at, rows) VALUES (made, clock_us(), p_rows);
    RETURN made;
END $$;

CREATE FUNCTION interlock.fetch_answers(p_id text) RETURNS SETOF answer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT a.* FROM answers AS k, json_populate_recordset(NULL::answer, k.rows) AS a WHERE k.id = p_id
$$;

-- Reading

-- Where the log of a space ends: one row, of zeros where it is empty.  Inlined, as the next three.
CREATE FUNCTION interlock.tail(p_space integer) RETURNS TABLE ("position" bigint, "time" bigint)
LANGUAGE sql STABLE
AS $$
    SELECT COALESCE(l.position, 0), COALESCE(l.time, 0)
    FROM (SELECT 1) AS one LEFT JOIN LATERAL (
        SELECT log.position, log.time FROM interlock.log
        WHERE log.space = p_space ORDER BY log.position DESC LIMIT 1
    ) AS l ON true
$$;

-- What a key is after a write of a kind, whose value expires at a time or (null) does not: see heads.live.
CREATE FUNCTION interlock.live_after(p_kind text, p_expires bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE p_kind
        WHEN 'delete' THEN 0 WHEN 'append' THEN 2 WHEN 'fold' THEN 2 ELSE COALESCE(p_expires, 1) END
$$;

-- A text after every key, which has 512 bytes at most: where a prefix has no end of its own.  A bound that may be NULL bounds no index.
CREATE FUNCTION interlock.after_every_key() RETURNS text LANGUAGE sql IMMUTABLE
AS $$ SELECT repeat(chr(1114111), 129) $$;

-- The same as of a time: negative where the value has expired.
CREATE FUNCTION interlock.as_of(p_live bigint, p_now bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN p_live <= 2 OR p_live > p_now THEN p_live ELSE -p_live END $$;

-- The version of a key as plans expect it: -(version + 1) where the value has expired.
CREATE FUNCTION interlock.observed(p_version bigint, p_live bigint, p_now bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN p_live <= 2 OR p_live > p_now THEN p_version ELSE -1 - p_version END $$;

-- The last row of a key up to a position.  Rows are compared, and ordered by key, so that no plan but
-- one by the index of keys will do, whatever the planner believes of the table.
CREATE FUNCTION interlock.last_entry(p_space integer, p_key text, p_upto bigint)
RETURNS SETOF interlock.log LANGUAGE sql STABLE
AS $$
    SELECT l.* FROM interlock.log AS l
    WHERE l.space = p_space AND (l.key, l.position) >= (p_key, 0::bigint)
        AND (l.key, l.position) <= (p_key, p_upto)
    ORDER BY l.key DESC, l.position DESC LIMIT 1
$$;

-- A key as it is now: one row, of zeros where it never was.  listed: its row in heads, null where it has
-- none.
CREATE FUNCTION interlock.head(p_space integer, p_key text)
RETURNS TABLE (version bigint, epoch bigint, live bigint, listed bigint)
LANGUAGE sql STABLE
AS $$
    SELECT COALESCE(l.version, 0), GREATEST(l.epoch, h.epoch, 0),
        CASE WHEN l.kind IS NULL THEN 0 ELSE interlock.live_after(l.kind, l.expires) END, h.live
    FROM (SELECT 1) AS one
    LEFT JOIN LATERAL interlock.last_entry(p_space, p_key, 9223372036854775807) AS l ON true
    LEFT JOIN LATERAL (
        SELECT heads.epoch, heads.live FROM interlock.heads
        WHERE heads.space = p_space AND heads.key = p_key LIMIT 1
    ) AS h ON true
$$;

-- The version of the rules.
CREATE FUNCTION interlock.rules_version(p_space integer) RETURNS bigint LANGUAGE sql STABLE
AS $$
    SELECT COALESCE((
        SELECT l.version FROM interlock.last_entry(p_space, '$rules', 9223372036854775807) AS l), 0)
$$;

-- The record of a key, at the time p_now.  `what` and `n` are given back.
CREATE FUNCTION interlock.record(p_space integer, p_key text, p_what text, p_n integer, p_now bigint)
RETURNS SETOF answer LANGUAGE plpgsql STABLE
AS $$
DECLARE
    r answer;
    saved bigint;
BEGIN
    SELECT p_what, p_n, p_key, NULL, l.body, NULL, h.version, h.epoch, l.agent, l.time, l.position,
        as_of(h.live, p_now), NULL
    INTO r
    FROM head(p_space, p_key) AS h
    LEFT JOIN LATERAL last_entry(p_space, p_key, 9223372036854775807) AS l ON true;
    IF r.live = 2 THEN
        SELECT entry, body INTO saved, r.base FROM folds WHERE space = p_space AND key = p_key;
        SELECT '[' || COALESCE(string_agg(l.body, ',' ORDER BY l.position), '') || ']', count(*)
        INTO r.body, r.extra FROM log AS l
        WHERE l.space = p_space AND l.key = p_key AND l.position > COALESCE(saved, 0)
            AND l.kind = 'append' AND l.body IS NOT NULL;
    END IF;
    RETURN NEXT r;
END $$;

-- A consistent set of records and scans; p_ends[i] is the end of the prefix p_prefixes[i].  Rows: now
-- (time, position, extra: the version of the rules, version: the steps that erased values), key, scan (n: the number of the prefix), queued
-- (key, extra: how many), lease (key, agent, epoch, time: until it expires), op (an entry of the operation);
-- or, alone, back (position): the commit at p_seen of operation p_seen_op is not in the log.  p_durable: see
-- `commit`; here it is about the operation.
CREATE FUNCTION interlock.load(
    p_space integer, p_keys text[], p_prefixes text[], p_ends text[], p_op text, p_seen bigint,
    p_seen_op text, p_durable boolean DEFAULT false
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
    SELECT now_us, t.position, rules_version(p_space), erasures_of(p_space)
    INTO r.time, r.position, r.extra, r.version FROM tail(p_space) AS t;
    IF r.position = 0 THEN PERFORM floor_of(p_space); END IF;
    RETURN NEXT r;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        RETURN QUERY SELECT * FROM record(p_space, p_keys[i], 'key', i - 1, now_us);
    END LOOP;
    FOR i IN 1 .. cardinality(p_prefixes) LOOP
        RETURN QUERY SELECT 'scan', i - 1, h.key, NULL, l.body, NULL, l.version,
            GREATEST(l.epoch, h.epoch), l.agent, l.time, l.position, h.live, NULL::bigint
        FROM heads AS h CROSS JOIN LATERAL last_entry(p_space, h.key, 9223372036854775807) AS l
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND h.key < COALESCE(p_ends[i], after_every_key())
            AND (h.live = 1 OR h.live > 2 AND h.live > now_us) AND (l.body IS NOT NULL OR l.kind = 'delete')
            AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
        RETURN QUERY SELECT m.* FROM heads AS h, record(p_space, h.key, 'scan', i - 1, now_us) AS m
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND h.key < COALESCE(p_ends[i], after_every_key())
            AND h.live = 2 AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
    END LOOP;
    IF EXISTS (SELECT 1 FROM tickets AS t WHERE t.space = p_space) THEN
        RETURN QUERY SELECT 'queued', 0, k, NULL, NULL, NULL, NULL::bigint, NULL::bigint, NULL,
            NULL::bigint, NULL::bigint, NULL::bigint, q.waiting
        FROM unnest(p_keys) AS k CROSS JOIN LATERAL (
            SELECT count(*) AS waiting FROM queue(p_space, k, now_us, NULL, 16)
        ) AS q WHERE q.waiting > 0;
    END IF;
    RETURN QUERY SELECT 'lease', 0, l.key, NULL, NULL, NULL, NULL::bigint, l.epoch, l.holder,
        l.expires - now_us, NULL::bigint, NULL::bigint, NULL::bigint
    FROM leases AS l
    WHERE l.space = p_space AND l.key = ANY (p_keys) AND alive(l.renewed, l.expires, now_us);
    IF p_op IS NOT NULL THEN
        RETURN QUERY SELECT * FROM operation(p_space, p_op, 0);
        IF FOUND AND p_durable THEN
            PERFORM wait_for_all();
        END IF;
    END IF;
END $$;

-- Existing keys under a prefix, from p_first to p_end and without p_after, in order, at most p_limit.
CREATE FUNCTION interlock.list_keys(
    p_space integer, p_prefix text, p_end text, p_first text, p_after text, p_limit integer, p_deleted boolean
) RETURNS TABLE (key text, version bigint, epoch bigint, agent text, "time" bigint, "position" bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := clock_us();
BEGIN
    PERFORM floor_of(p_space);
    RETURN QUERY SELECT h.key, l.version, GREATEST(l.epoch, h.epoch), l.agent, l.time, l.position
    FROM heads AS h CROSS JOIN LATERAL last_entry(p_space, h.key, 9223372036854775807) AS l
    WHERE h.space = p_space AND h.key >= p_first AND h.key <> p_after
        AND h.key < COALESCE(p_end, after_every_key())
        AND (p_deleted OR as_of(h.live, now_us) > 0) AND (p_prefix <> '' OR left(h.key, 1) <> '$')
    ORDER BY h.key LIMIT p_limit;
END $$;

-- Who waits in the queue of a key and in that of its lease, in their order; silent: microseconds since the
-- last sign of life.
CREATE FUNCTION interlock.list_waiters(p_space integer, p_key text, p_queue text, p_limit integer)
RETURNS TABLE (agent text, for_lease integer, silent bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_us bigint := clock_us();
BEGIN
    PERFORM floor_of(p_space);
    RETURN QUERY SELECT t.agent, (q.key = p_queue)::integer, now_us - t.renewed
    FROM ticket_keys AS q JOIN tickets AS t ON t.space = q.space AND t.ticket = q.ticket
    WHERE q.space = p_space AND q.key IN (p_key, p_queue) AND alive(t.renewed, t.expires, now_us)
    ORDER BY q.ticket LIMIT p_limit;
END $$;

-- The same as list_keys of keys whose values have expired, but of those that somebody has the lease of; the first first.
CREATE FUNCTION interlock.list_expired(p_space integer, p_limit integer)
RETURNS TABLE (key text, version bigint, epoch bigint, agent text, "time" bigint, "position" bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    now_us bigint := clock_us();
BEGIN
    PERFORM floor_of(p_space);
    RETURN QUERY SELECT h.key, l.version, GREATEST(l.epoch, h.epoch), l.agent, l.time, l.position
    FROM heads AS h CROSS JOIN LATERAL last_entry(p_space, h.key, 9223372036854775807) AS l
    WHERE h.space = p_space AND h.live > 2 AND h.live <= now_us AND NOT EXISTS (
        SELECT 1 FROM leases AS t
        WHERE t.space = p_space AND t.key = h.key AND alive(t.renewed, t.expires, now_us))
    ORDER BY h.live, h.key LIMIT p_limit;
END $$;

-- Has the transaction's answer wait for the disk, as `durable` does, where it only reads: with a record of
-- the server's log that means nothing, and no lock that others would wait for.
CREATE FUNCTION interlock.wait_for_all() RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_logical_emit_message(true, 'interlock', '');
    PERFORM durable(true);
END $$;

-- The position that the log is cut up to, 0 where it is whole; an error where the space was dropped.
CREATE FUNCTION interlock.floor_of(p_space integer) RETURNS bigint LANGUAGE sql STABLE
AS $$ SELECT COALESCE((SELECT trimmed FROM spaces WHERE space = p_space), gone()) $$;

-- How many steps have erased values of the space.
CREATE FUNCTION interlock.erasures_of(p_space integer) RETURNS bigint LANGUAGE sql STABLE
AS $$ SELECT erasures FROM spaces WHERE space = p_space $$;

-- Whether a commit that the caller knows of (p_seen 0: none) is not in the log: commits were lost.
CREATE FUNCTION interlock.is_lost(p_space integer, p_seen bigint, p_seen_op text) RETURNS boolean
LANGUAGE sql STABLE
AS $$
    SELECT p_seen > 0 AND NOT EXISTS (
        SELECT 1 FROM log WHERE space = p_space AND position = p_seen AND op = p_seen_op)
    AND p_seen > floor_of(p_space)
$$;

-- The entries of an operation, in order.  Rows: op (kind; live: when the value expires).
CREATE FUNCTION interlock.operation(p_space integer, p_op text, p_n integer) RETURNS SETOF answer
LANGUAGE sql STABLE
AS $$
    SELECT 'op', p_n, key, kind, body, NULL, version, epoch, agent, time, position, expires,
        NULL::bigint
    FROM log WHERE space = p_space AND op = p_op ORDER BY position
$$;

-- The record of a key as of a position, and of a time as to what has expired (0: nothing).
CREATE FUNCTION interlock.record_at(
    p_space integer, p_key text, p_position bigint, p_what text, p_n integer, p_now bigint
) RETURNS SETOF answer LANGUAGE plpgsql STABLE
AS $$
DECLARE
    r answer;
    saved bigint;
BEGIN
    SELECT p_what, p_n, p_key, l.kind, l.body, NULL, l.version, l.epoch, l.agent, l.time, l.position,
        as_of(live_after(l.kind, l.expires), p_now), NULL
    INTO r FROM last_entry(p_space, p_key, p_position) AS l;
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
            AND l.position <= p_position AND l.kind = 'append' AND l.body IS NOT NULL;
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
    now_us bigint := COALESCE(p_time, 0);
BEGIN
    r.what := 'now'; r.time := clock_us();
    SELECT t.position, rules_version(p_space), erasures_of(p_space) INTO high, r.extra, r.version
    FROM tail(p_space) AS t;
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
        RETURN QUERY SELECT * FROM record_at(p_space, p_keys[i], r.position, 'key', i - 1, now_us);
    END LOOP;
    FOR i IN 1 .. cardinality(p_prefixes) LOOP
        RETURN QUERY SELECT m.*
        FROM heads AS h, record_at(p_space, h.key, r.position, 'scan', i - 1, now_us) AS m
        WHERE h.space = p_space AND h.key >= p_prefixes[i] AND h.key < COALESCE(p_ends[i], after_every_key())
            AND m.live > 0 AND m.body IS NOT NULL AND (p_prefixes[i] <> '' OR left(h.key, 1) <> '$');
    END LOOP;
END $$;

-- At most p_limit entries, and 4 MB of values (but one entry at least), after a position (-1: from the oldest that is kept): of one key, of a prefix and
-- its end, or all of them.  The first row has no key: its position is where the log ends, its version what
-- the log is cut up to, its epoch how many steps have erased values, and its kind is back where the commit at p_seen of operation p_seen_op is not in it.
CREATE FUNCTION interlock.read_log(
    p_space integer, p_after bigint, p_limit integer, p_key text, p_prefix text, p_end text,
    p_seen bigint, p_seen_op text
) RETURNS TABLE (
    "position" bigint, key text, version bigint, epoch bigint, kind text, body text, agent text,
    "time" bigint, op text, reads text, expires bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    floor bigint := floor_of(p_space);
BEGIN
    p_after := GREATEST(p_after, floor);
    RETURN QUERY SELECT t.position, NULL, floor, erasures_of(p_space),
        CASE WHEN is_lost(p_space, p_seen, p_seen_op) THEN 'back' END, NULL, NULL, NULL::bigint, NULL,
        NULL, NULL::bigint FROM tail(p_space) AS t;
    IF p_key IS NOT NULL THEN
        RETURN QUERY SELECT l.position, l.key, l.version, l.epoch, l.kind, l.body, l.agent, l.time,
            l.op, l.reads, COALESCE(l.expires, 0)
        FROM (SELECT m.*, sum(COALESCE(octet_length(m.body), 0) + COALESCE(octet_length(m.reads), 0))
                OVER (ORDER BY m.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM (SELECT * FROM log AS l WHERE l.space = p_space AND l.position > p_after
                AND l.key = p_key
                ORDER BY l.position LIMIT p_limit) AS m) AS l
        WHERE l.before IS NULL OR l.before < 4194304 ORDER BY l.position;
    ELSE
        RETURN QUERY SELECT l.position, l.key, l.version, l.epoch, l.kind, l.body, l.agent, l.time,
            l.op, l.reads, COALESCE(l.expires, 0)
        FROM (SELECT m.*, sum(COALESCE(octet_length(m.body), 0) + COALESCE(octet_length(m.reads), 0))
                OVER (ORDER BY m.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
            FROM (SELECT * FROM log AS l WHERE l.space = p_space AND l.position > p_after
                AND l.key >= p_prefix AND (p_end IS NULL OR l.key < p_end)
                AND (p_prefix = '' OR l.position <= p_after + 20000)
                ORDER BY l.position LIMIT p_limit) AS m) AS l
        WHERE l.before IS NULL OR l.before < 4194304 ORDER BY l.position;
    END IF;
END $$;

-- Where the log of a space ends.
CREATE FUNCTION interlock.log_end(p_space integer) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ SELECT position FROM tail(p_space) $$;

-- Writers tell the channel interlock_<space> their position until p_until.  Where nobody listens they
-- do not: a commit with a notification takes a lock that the whole server shares.
CREATE FUNCTION interlock.listen_until(p_space integer, p_seconds double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE spaces SET listened = GREATEST(listened, clock_us() + (p_seconds * 1000000)::bigint)
    WHERE space = p_space;
    RETURN (SELECT position FROM tail(p_space));
END $$;

-- Refusals

-- Keeps refusals (an array of objects) and forgets the oldest.
CREATE FUNCTION interlock.add_refusals(p_space integer, p_notes json, p_kept integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM floor_of(p_space);
    INSERT INTO refusals (space, key, agent, reason, other, behind, time, op)
    SELECT p_space, n.key, n.agent, n.reason, n.other, n.behind, n.time, n.op
    FROM json_to_recordset(p_notes)
        AS n(key text, agent text, reason text, other text, behind bigint, time bigint, op text)
    WHERE may_be(n.agent);
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
    WHERE space = p_space AND floor_of(p_space) >= 0 ORDER BY id DESC LIMIT p_limit
$$;
