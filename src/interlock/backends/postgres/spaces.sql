-- Whole spaces in PostgreSQL: listing, making, dropping and renaming them, and moving one into and out of the
-- store.  What is asked and promised is in core/spaces.py and core/transfer.py.

-- The spaces, in the order of their names.  size: about, by the last thousand rows of the log.
CREATE FUNCTION interlock.list_spaces() RETURNS TABLE (
    name text, keys bigint, entries bigint, size bigint, "position" bigint, "time" bigint, importing integer
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT s.name, k.n, n.entries, (n.rows * COALESCE(m.mean, 0))::bigint, t.position, t.time,
        (s.importing IS NOT NULL)::integer
    FROM spaces AS s CROSS JOIN LATERAL tail(s.space) AS t
    CROSS JOIN LATERAL (
        SELECT count(*) AS n FROM heads AS h, (SELECT clock_us() AS us) AS n
        WHERE h.space = s.space AND as_of(h.live, n.us) > 0 AND left(h.key, 1) <> '$'
    ) AS k
    CROSS JOIN LATERAL (
        SELECT GREATEST(t.position - s.trimmed, 0) AS entries,
            GREATEST(t.position - s.trimmed, 0) + CASE WHEN s.trimmed > 0 THEN k.n ELSE 0 END AS rows
    ) AS n
    CROSS JOIN LATERAL (
        SELECT avg(pg_column_size(l) + 2 * octet_length(l.key) + octet_length(l.op) + 60) AS mean
        FROM (SELECT * FROM log WHERE log.space = s.space ORDER BY log.position DESC LIMIT 1000) AS l
    ) AS m
    ORDER BY s.name
$$;

-- The names of those that can be opened, in their order.
CREATE FUNCTION interlock.name_spaces() RETURNS TABLE (name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ SELECT s.name FROM spaces AS s WHERE s.importing IS NULL ORDER BY s.name $$;

-- The unique id of a space: one row at most.
CREATE FUNCTION interlock.find_space(p_name text) RETURNS TABLE (uid text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ SELECT s.uid FROM spaces AS s WHERE s.name = p_name $$;

-- Makes a space with a unique id: 1 where it is there with this id.
CREATE FUNCTION interlock.create_space(p_name text, p_uid text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
BEGIN
    PERFORM check_writer();
    PERFORM durable(true);
    INSERT INTO spaces (name, uid, created) VALUES (p_name, p_uid, clock_us()) ON CONFLICT DO NOTHING;
    RETURN (SELECT count(*) FROM spaces AS s WHERE s.name = p_name AND s.uid = p_uid);
END $$;

-- Drops a space with all that it holds; p_unfinished: only if its import is not finished.  Its number is never
-- used again, so whoever has it open finds none.
CREATE FUNCTION interlock.drop_space(p_uid text, p_unfinished boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    s spaces;
BEGIN
    PERFORM check_operator('drop a space');
    PERFORM durable(true);
    SELECT * INTO s FROM spaces WHERE uid = p_uid FOR UPDATE;
    IF p_unfinished AND s.importing IS NULL THEN
        RETURN;
    END IF;
    PERFORM empty_space(s.space);
    DELETE FROM spaces WHERE space = s.space;
END $$;

-- Deletes all rows of a space but its own, which the caller has locked.
CREATE FUNCTION interlock.empty_space(p_space integer) RETURNS void LANGUAGE sql
AS $$
    DELETE FROM group_pending WHERE group_id IN (SELECT group_id FROM groups WHERE space = p_space);
    DELETE FROM group_consumers WHERE group_id IN (SELECT group_id FROM groups WHERE space = p_space);
    DELETE FROM groups WHERE space = p_space;
    DELETE FROM log WHERE space = p_space;
    DELETE FROM heads WHERE space = p_space;
    DELETE FROM folds WHERE space = p_space;
    DELETE FROM leases WHERE space = p_space;
    DELETE FROM agents WHERE space = p_space;
    DELETE FROM refusals WHERE space = p_space;
    DELETE FROM ticket_keys WHERE space = p_space;
    DELETE FROM ticket_holds WHERE space = p_space;
    DELETE FROM tickets WHERE space = p_space;
$$;

-- Gives a space another name: done, taken (there is one of that name), or gone.
CREATE FUNCTION interlock.rename_space(p_uid text, p_to text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    s spaces;
BEGIN
    PERFORM check_operator('rename a space');
    PERFORM durable(true);
    SELECT * INTO s FROM spaces WHERE uid = p_uid FOR UPDATE;
    IF NOT FOUND THEN RETURN 'gone'; END IF;
    UPDATE spaces SET name = p_to WHERE space = s.space;
    RETURN 'done';
EXCEPTION WHEN unique_violation THEN
    RETURN 'taken';
END $$;

-- Makes a space for an import, or finds the one that it began.  One row: its number and unique id, or (why)
-- full where it holds something, other where another import has begun it.  One that is there and empty is made
-- anew: whoever has it open must not write into the import.
CREATE FUNCTION interlock.begin_import(p_name text, p_source text, p_floor bigint, p_uid text)
RETURNS TABLE (space integer, uid text, why text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    s spaces;
BEGIN
    PERFORM check_operator('import a space');
    PERFORM durable(true);
    SELECT * INTO s FROM spaces WHERE name = p_name FOR UPDATE;
    IF s.importing IS NOT NULL THEN
        RETURN QUERY SELECT s.space, s.uid, CASE WHEN s.importing <> p_source THEN 'other' END;
        RETURN;
    END IF;
    IF s.space IS NOT NULL THEN
        IF EXISTS (SELECT 1 FROM heads AS h WHERE h.space = s.space)
            OR EXISTS (SELECT 1 FROM agents AS a WHERE a.space = s.space)
            OR EXISTS (SELECT 1 FROM groups AS g WHERE g.space = s.space)
        THEN
            RETURN QUERY SELECT s.space, s.uid, 'full';
            RETURN;
        END IF;
        DELETE FROM spaces AS x WHERE x.space = s.space;
    END IF;
    INSERT INTO spaces (name, uid, created, trimmed, importing)
    VALUES (p_name, p_uid, clock_us(), p_floor, p_source);
    RETURN QUERY SELECT x.space, x.uid, NULL FROM spaces AS x WHERE x.name = p_name;
EXCEPTION WHEN unique_violation THEN
    RETURN QUERY SELECT x.space, x.uid, 'other' FROM spaces AS x WHERE x.name = p_name;
END $$;

-- A moment of a space: one JSON object of position, floor, and the parts, each an array of arrays.
CREATE FUNCTION interlock.dump(p_space integer) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT json_build_object(
        'position', GREATEST((SELECT position FROM tail(p_space)), floor_of(p_space)),
        'floor', floor_of(p_space),
        'epochs', (
            SELECT json_agg(json_build_array(e.key, e.raised)) FROM (
                SELECT h.key, l.epoch AS logged,
                    GREATEST(h.epoch, l.epoch) + (x.epoch IS NOT NULL)::integer AS raised
                FROM heads AS h
                LEFT JOIN LATERAL last_entry(p_space, h.key, 9223372036854775807) AS l ON true
                LEFT JOIN leases AS x
                    ON x.space = p_space AND x.key = h.key AND x.epoch = GREATEST(h.epoch, l.epoch)
                WHERE h.space = p_space AND h.epoch > 0
            ) AS e WHERE e.raised > COALESCE(e.logged, 0)),
        'agents', (
            SELECT json_agg(json_build_array(agent, incarnation)) FROM agents WHERE space = p_space),
        'groups', (
            SELECT json_agg(json_build_array(name, prefix, cursor)) FROM groups WHERE space = p_space),
        'pending', (
            SELECT json_agg(json_build_array(g.name, p.position, p.key, p.consumer, p.deliveries))
            FROM groups AS g JOIN group_pending AS p ON p.group_id = g.group_id WHERE g.space = p_space),
        'projections', (
            SELECT json_agg(json_build_array(key, entry, body)) FROM folds
            WHERE space = p_space AND key >= '$projection/' AND key < '$projection0'))::text
$$;

-- Keys after one, in order, each with its last entry up to a position.  The first row has no key: its position
-- is what the log is cut up to.
CREATE FUNCTION interlock.read_base(p_space integer, p_after text, p_limit integer, p_position bigint)
RETURNS TABLE (
    "position" bigint, key text, version bigint, epoch bigint, kind text, body text, agent text,
    "time" bigint, op text, reads text, expires bigint
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT floor_of(p_space), NULL, NULL::bigint, NULL::bigint, NULL, NULL, NULL,
        NULL::bigint, NULL, NULL, NULL::bigint;
    RETURN QUERY SELECT l.position, l.key, l.version, l.epoch, l.kind,
        CASE WHEN l.kind <> 'append' THEN l.body END, l.agent, l.time, '', NULL,
        COALESCE(l.expires, 0)
    FROM heads AS h CROSS JOIN LATERAL last_entry(p_space, h.key, p_position) AS l
    WHERE h.space = p_space AND h.key > p_after ORDER BY h.key LIMIT p_limit;
END $$;

-- Where the log of a space ends, base rows apart, and where it is cut.
CREATE FUNCTION interlock.import_mark(p_space integer) RETURNS TABLE ("position" bigint, floor bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT GREATEST(t.position, floor_of(p_space)), floor_of(p_space) FROM tail(p_space) AS t
$$;

-- Writes base rows and rows of the log into a space that is being imported, where its log ends at p_position;
-- all or none.  Returns where the log ends then.
CREATE FUNCTION interlock.restore(p_space integer, p_position bigint, p_base json, p_rows json)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s spaces;
    last bigint;
    each record;
BEGIN
    PERFORM check_operator('import a space');
    s := lock_space(p_space);
    PERFORM durable(true);
    SELECT GREATEST(t.position, s.trimmed) INTO last FROM tail(p_space) AS t;
    IF s.importing IS NULL OR p_position <> last OR EXISTS (
        SELECT 1 FROM (
            SELECT x.*, row_number() OVER (ORDER BY x.position) AS n,
                row_number() OVER (PARTITION BY x.key ORDER BY x.position) AS nth
            FROM json_to_recordset(p_rows) AS x(position bigint, key text, version bigint)
        ) AS r LEFT JOIN LATERAL last_entry(p_space, r.key, 9223372036854775807) AS l ON true
        WHERE r.position <> last + r.n OR r.version <> COALESCE(l.version, 0) + r.nth
    ) OR EXISTS (
        SELECT 1 FROM json_to_recordset(p_base) AS x(position bigint)
        WHERE last > s.trimmed OR x.position NOT BETWEEN 1 AND s.trimmed
    ) THEN
        RETURN last;
    END IF;
    FOR each IN
        SELECT x.key, x.position FROM (
            SELECT r.*, lag(r.kind) OVER (PARTITION BY r.key ORDER BY r.position) AS before
            FROM json_to_recordset(p_rows) AS r(position bigint, key text, kind text)
        ) AS x LEFT JOIN LATERAL last_entry(p_space, x.key, 9223372036854775807) AS l ON true
        WHERE x.kind = 'delete' AND live_after(COALESCE(x.before, l.kind), NULL) = 2 ORDER BY x.position
    LOOP
        PERFORM keep_fold(p_space, each.key, each.position, NULL);
    END LOOP;
    INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads, expires)
    SELECT p_space, x.position, x.key, x.version, x.epoch, x.kind, x.body, x.agent, x.time_us, x.op_id,
        x.reads, NULLIF(x.expires_us, 0)
    FROM (
        SELECT * FROM json_to_recordset(p_base) AS b(position bigint, key text, version bigint,
            epoch bigint, kind text, body text, agent text, time_us bigint, op_id text, reads text,
            expires_us bigint)
        UNION ALL
        SELECT * FROM json_to_recordset(p_rows) AS r(position bigint, key text, version bigint,
            epoch bigint, kind text, body text, agent text, time_us bigint, op_id text, reads text,
            expires_us bigint)
    ) AS x
    ON CONFLICT (space, position) DO UPDATE SET key = excluded.key, version = excluded.version,
        epoch = excluded.epoch, kind = excluded.kind, body = excluded.body, agent = excluded.agent,
        time = excluded.time, expires = excluded.expires;
    INSERT INTO heads (space, key, epoch, live)
    SELECT DISTINCT ON (x.key) p_space, x.key, 0, live_after(x.kind, NULLIF(x.expires_us, 0))
    FROM (
        SELECT * FROM json_to_recordset(p_base)
            AS b(position bigint, key text, kind text, expires_us bigint)
        UNION ALL
        SELECT * FROM json_to_recordset(p_rows)
            AS r(position bigint, key text, kind text, expires_us bigint)
    ) AS x ORDER BY x.key, x.position DESC
    ON CONFLICT (space, key) DO UPDATE SET live = excluded.live;
    PERFORM keep_fold(p_space, b.key, b.position, b.body)
    FROM json_to_recordset(p_base) AS b(position bigint, key text, kind text, body text)
    WHERE b.kind = 'fold';
    RETURN last + json_array_length(p_rows);
END $$;

-- Writes the parts of a space that was imported up to p_position and opens it to others; 0 where its log ends
-- elsewhere.
CREATE FUNCTION interlock.finish_import(p_space integer, p_position bigint, p_parts json) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    s spaces;
BEGIN
    PERFORM check_operator('import a space');
    s := lock_space(p_space);
    PERFORM durable(true);
    IF p_position <> (SELECT GREATEST(t.position, s.trimmed) FROM tail(p_space) AS t) THEN
        RETURN 0;
    ELSIF s.importing IS NULL THEN  -- finished by another sending
        RETURN 1;
    END IF;
    INSERT INTO heads (space, key, epoch, live)
    SELECT p_space, e ->> 0, (e ->> 1)::bigint, 0 FROM json_array_elements(p_parts -> 'epochs') AS e
    ON CONFLICT (space, key) DO UPDATE SET epoch = excluded.epoch;
    INSERT INTO agents (space, agent, incarnation, name)
    SELECT p_space, e ->> 0, (e ->> 1)::bigint, '' FROM json_array_elements(p_parts -> 'agents') AS e;
    INSERT INTO groups (space, name, prefix, cursor)
    SELECT p_space, e ->> 0, e ->> 1, (e ->> 2)::bigint
    FROM json_array_elements(p_parts -> 'groups') AS e;
    -- Consumers that are dead: others may claim what is pending with them.
    INSERT INTO group_consumers (group_id, consumer, seen, ttl, acked)
    SELECT DISTINCT g.group_id, e ->> 3, 0, 0, '{}'::bigint[]
    FROM json_array_elements(p_parts -> 'pending') AS e
    JOIN groups AS g ON g.space = p_space AND g.name = e ->> 0;
    INSERT INTO group_pending (group_id, position, key, consumer, batch, deliveries)
    SELECT g.group_id, (e ->> 1)::bigint, e ->> 2, e ->> 3, '', (e ->> 4)::integer
    FROM json_array_elements(p_parts -> 'pending') AS e
    JOIN groups AS g ON g.space = p_space AND g.name = e ->> 0;
    PERFORM keep_fold(p_space, e ->> 0, (e ->> 1)::bigint, e ->> 2)
    FROM json_array_elements(p_parts -> 'projections') AS e;
    UPDATE spaces SET importing = NULL WHERE space = p_space;
    RETURN 1;
END $$;

-- What `doctor` asks of each space: one JSON array of objects, as core/health.py has them.
CREATE FUNCTION interlock.examine() RETURNS text
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    WITH now AS MATERIALIZED (SELECT clock_us() AS us)
    SELECT COALESCE(json_agg(json_build_array(
        s.name, GREATEST(t.position - s.trimmed, 0), t.position, s.importing IS NOT NULL,
        (t.time - now.us) / 1e6,
        (SELECT json_agg(json_build_array(l.key, l.holder, (l.expires - now.us) / 1e6) ORDER BY l.key)
         FROM leases AS l WHERE l.space = s.space),
        (SELECT json_agg(json_build_array(q.key, q.n, q.dead) ORDER BY q.key) FROM (
            SELECT k.key, count(*) AS n, count(*) FILTER (WHERE x.expires <= now.us) AS dead
            FROM ticket_keys AS k JOIN tickets AS x ON x.space = k.space AND x.ticket = k.ticket
            WHERE k.space = s.space GROUP BY k.key) AS q),
        (SELECT json_agg(json_build_array(g.name, g.cursor, p.n, p.dead) ORDER BY g.name)
         FROM groups AS g CROSS JOIN LATERAL (
            SELECT count(*) AS n, count(*) FILTER (WHERE c.seen + c.ttl <= now.us) AS dead
            FROM group_pending AS p LEFT JOIN group_consumers AS c
                ON c.group_id = p.group_id AND c.consumer = p.consumer
            WHERE p.group_id = g.group_id) AS p
         WHERE g.space = s.space)
    ) ORDER BY s.name), '[]')::text
    FROM now, spaces AS s CROSS JOIN LATERAL tail(s.space) AS t
$$;
