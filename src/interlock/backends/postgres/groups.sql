-- Consumer groups in PostgreSQL: dealing the log to consumers, claiming from dead ones, acknowledging.
-- See functions.sql for the rows of an answer, and core/group.py for what is promised.
--
-- Whoever changes a group locks the row of its space first, so that a read sees the log up to its end
-- and what every other consumer was given.  What a read deals need not reach the disk before it is
-- answered: forgotten, it is dealt again.  An acknowledgement must.

-- One row of what a consumer is given.  The first row is about the group: position is what it has dealt
-- the log up to, version where the log ends, time the server's clock, key the prefix of the group, epoch
-- what the log is cut up to where a new group would begin before that (and is not made).
CREATE TYPE interlock.delivery AS (
    position bigint, key text, version bigint, epoch bigint, kind text, body text, agent text,
    time bigint, op text, reads text, expires bigint, deliveries integer
);

-- As for other answers: see functions.sql.
CREATE FUNCTION interlock.bounded(p_rows delivery[]) RETURNS SETOF delivery
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
DECLARE
    d delivery;
BEGIN
    IF pg_column_size(p_rows) <= 24000 THEN
        RETURN QUERY SELECT * FROM unnest(p_rows);
    ELSE
        d.key := keep_answer(to_json(p_rows)); d.deliveries := -1;
        RETURN NEXT d;
    END IF;
END $$;

CREATE FUNCTION interlock.fetch_deliveries(p_id text) RETURNS SETOF delivery
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT a.* FROM answers AS k, json_populate_recordset(NULL::delivery, k.rows) AS a WHERE k.id = p_id
$$;

-- The log's next positions and keys that a group may deal, up to a position.  Read in the order of
-- positions, whatever the planner believes of the prefix.
CREATE FUNCTION interlock.group_window(p_space integer, p_after bigint, p_upto bigint, p_prefix text)
RETURNS TABLE (o_position bigint, o_key text) LANGUAGE sql STABLE
AS $$
    SELECT l.position, l.key FROM log AS l
    WHERE l.space = p_space AND l.position > p_after AND l.position <= p_upto
        AND starts_with(l.key, p_prefix) AND left(l.key, 1) <> '$'
    ORDER BY l.position
$$;

-- How many entries wait to be delivered to a consumer, p_limit at most.
CREATE FUNCTION interlock.group_waiting(p_group bigint, p_consumer text, p_limit integer)
RETURNS integer LANGUAGE sql STABLE
AS $$
    SELECT count(*)::integer FROM (
        SELECT 1 FROM group_pending
        WHERE group_id = p_group AND consumer = p_consumer AND batch = '' LIMIT p_limit) AS w
$$;

-- Those with entries that may be claimed.
CREATE FUNCTION interlock.group_dead(p_group bigint, p_now bigint) RETURNS SETOF text
LANGUAGE sql STABLE
AS $$
    SELECT c.consumer FROM group_consumers AS c
    WHERE c.group_id = p_group AND NOT alive(c.seen, c.seen + c.ttl, p_now) AND EXISTS (
        SELECT 1 FROM group_pending AS p
        WHERE p.group_id = c.group_id AND p.consumer = c.consumer)
    ORDER BY c.consumer
$$;

-- What was delivered under a name: the log's rows, and how often each was delivered.
CREATE FUNCTION interlock.group_delivered(
    p_space integer, p_group bigint, p_consumer text, p_name text
) RETURNS SETOF delivery LANGUAGE sql STABLE
AS $$
    SELECT l.position, l.key, l.version, l.epoch, l.kind, l.body, l.agent, l.time, l.op, l.reads,
        COALESCE(l.expires, 0), p.deliveries
    FROM group_pending AS p CROSS JOIN LATERAL (
        -- LIMIT: each is looked up by its index, whatever the planner believes of the tables.
        SELECT * FROM log AS e WHERE e.space = p_space AND e.position = p.position LIMIT 1) AS l
    WHERE p.group_id = p_group AND p.consumer = p_consumer AND p.batch = p_name
    ORDER BY p.position
$$;

-- The answer to a consumer for which there is nothing, or no row where something must be written.
CREATE FUNCTION interlock.look_group(
    p_space integer, p_group text, p_consumer text, p_prefix text, p_ttl bigint, p_name text,
    p_scanned integer
) RETURNS SETOF delivery LANGUAGE plpgsql STABLE
AS $$
DECLARE
    d delivery;
    g groups;
    c group_consumers;
BEGIN
    SELECT * INTO g FROM groups WHERE space = p_space AND name = p_group;
    IF NOT FOUND THEN RETURN; END IF;
    d.version := log_end(p_space);
    d.position := g.cursor; d.key := g.prefix; d.time := clock_us();
    IF g.prefix = p_prefix THEN
        SELECT * INTO c FROM group_consumers WHERE group_id = g.group_id AND consumer = p_consumer;
        IF NOT FOUND
            OR c.seen + c.ttl - d.time < p_ttl * 7 / 10
            OR NOT alive(c.seen, c.seen + c.ttl, d.time)
            OR group_waiting(g.group_id, p_consumer, 1) > 0
            OR EXISTS (SELECT 1 FROM group_dead(g.group_id, d.time))
            OR d.version - g.cursor > p_scanned
            OR EXISTS (SELECT 1 FROM group_window(p_space, g.cursor, d.version, g.prefix))
            OR EXISTS (
                SELECT 1 FROM group_pending AS p
                WHERE p.group_id = g.group_id AND p.consumer = p_consumer AND p.batch = p_name)
        THEN
            RETURN;
        END IF;
        d.position := d.version;
    END IF;
    RETURN NEXT d;
END $$;

-- Gives a consumer at most p_limit entries: what it was given under p_name before; else its own first,
-- then those of dead consumers, then the log's next.  p_start: where a new group begins (-1: at the end
-- of the log).  p_resume: what it was given before and did not acknowledge is given again.  p_limit 0: a
-- sign of life.  p_scanned: positions of the log that are looked at, at most.  p_forgotten: microseconds
-- after which a dead consumer with nothing pending is forgotten.
CREATE FUNCTION interlock.read_group(
    p_space integer, p_group text, p_consumer text, p_prefix text, p_start bigint, p_limit integer,
    p_ttl bigint, p_resume boolean, p_name text, p_scanned integer, p_forgotten bigint
) RETURNS SETOF delivery
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    d delivery;
    g groups;
    known boolean;
BEGIN
    IF p_limit > 0 AND NOT p_resume THEN
        RETURN QUERY SELECT * FROM look_group(p_space, p_group, p_consumer, p_prefix, p_ttl,
            p_name, p_scanned);
        IF FOUND THEN RETURN; END IF;
    END IF;
    PERFORM durable(false);
    PERFORM lock_space(p_space);
    d.version := log_end(p_space);
    d.time := clock_us(); d.key := p_prefix; d.position := d.version;
    SELECT * INTO g FROM groups WHERE space = p_space AND name = p_group;
    IF NOT FOUND THEN
        IF p_limit = 0 THEN
            RETURN NEXT d;
            RETURN;
        END IF;
        IF p_start > 0 AND p_start < floor_of(p_space) THEN
            d.epoch := floor_of(p_space);
            RETURN NEXT d;
            RETURN;
        END IF;
        INSERT INTO groups (space, name, prefix, cursor)
        VALUES (p_space, p_group, p_prefix, CASE WHEN p_start < 0 THEN d.version
            ELSE GREATEST(LEAST(p_start, d.version), floor_of(p_space)) END)
        RETURNING * INTO g;
    END IF;
    d.key := g.prefix; d.position := g.cursor;
    known := EXISTS (
        SELECT 1 FROM group_consumers WHERE group_id = g.group_id AND consumer = p_consumer);
    IF g.prefix <> p_prefix OR (p_limit = 0 AND NOT known) THEN
        RETURN NEXT d;
        RETURN;
    END IF;
    INSERT INTO group_consumers (group_id, consumer, seen, ttl, acked)
    VALUES (g.group_id, p_consumer, d.time, p_ttl, '{}')
    ON CONFLICT (group_id, consumer) DO UPDATE SET seen = excluded.seen, ttl = excluded.ttl;
    IF p_limit = 0 THEN
        RETURN NEXT d;
        RETURN;
    END IF;
    IF NOT known THEN
        DELETE FROM group_consumers AS c
        WHERE c.group_id = g.group_id AND c.seen + c.ttl < d.time - p_forgotten AND NOT EXISTS (
            SELECT 1 FROM group_pending AS p
            WHERE p.group_id = c.group_id AND p.consumer = c.consumer);
    END IF;
    IF NOT EXISTS (
        SELECT 1 FROM group_pending AS p
        WHERE p.group_id = g.group_id AND p.consumer = p_consumer AND p.batch = p_name)
    THEN
        IF p_resume THEN
            UPDATE group_pending SET batch = ''
            WHERE group_id = g.group_id AND consumer = p_consumer AND batch > '';
        END IF;
        PERFORM claim_keys(g.group_id, p_consumer, p_limit, d.time);
        d.position := deal(p_space, g, p_consumer, p_limit, LEAST(d.version, g.cursor + p_scanned));
        UPDATE group_pending SET batch = p_name, deliveries = deliveries + 1
        WHERE group_id = g.group_id AND position = ANY (ARRAY(
            SELECT m.position FROM (SELECT w.position, sum(COALESCE(octet_length(l.body), 0))
                    OVER (ORDER BY w.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                FROM (SELECT p.position FROM group_pending AS p
                    WHERE p.group_id = g.group_id AND p.consumer = p_consumer AND p.batch = ''
                    ORDER BY p.position LIMIT p_limit) AS w
                LEFT JOIN LATERAL (SELECT e.body FROM log AS e
                    WHERE e.space = p_space AND e.position = w.position LIMIT 1) AS l ON true) AS m
            WHERE m.before IS NULL OR m.before < 4194304));  -- bytes: as a page of the log
    END IF;
    RETURN NEXT d;
    RETURN QUERY SELECT * FROM group_delivered(p_space, g.group_id, p_consumer, p_name);
END $$;

-- Takes keys over from dead consumers, each with all its entries, until there is enough.
CREATE FUNCTION interlock.claim_keys(
    p_group bigint, p_consumer text, p_limit integer, p_now bigint
) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    dead text;
    room integer;
BEGIN
    FOR dead IN SELECT * FROM group_dead(p_group, p_now) LOOP
        room := p_limit - group_waiting(p_group, p_consumer, p_limit);
        EXIT WHEN room <= 0;
        -- Its rows now come in the log's order.
        UPDATE group_pending SET batch = ''
        WHERE group_id = p_group AND consumer = dead AND batch > '';
        UPDATE group_pending SET consumer = p_consumer, batch = ''
        WHERE group_id = p_group AND key = ANY (ARRAY(
            SELECT p.key FROM group_pending AS p
            WHERE p.group_id = p_group AND p.consumer = dead AND p.batch = ''
            ORDER BY p.position LIMIT room));
    END LOOP;
END $$;

-- Deals the log's next entries up to a position, until the consumer has enough: a key that has entries
-- pending goes to whom they are with, and any other to this consumer.  The position that is dealt now.
CREATE FUNCTION interlock.deal(
    p_space integer, p_group groups, p_consumer text, p_limit integer, p_upto bigint
) RETURNS bigint LANGUAGE plpgsql
AS $$
DECLARE
    entry record;
    holder text;
    upto bigint := p_upto;
    room integer := p_limit - group_waiting(p_group.group_id, p_consumer, p_limit);
BEGIN
    IF room <= 0 OR p_group.cursor >= p_upto THEN
        RETURN p_group.cursor;
    END IF;
    FOR entry IN SELECT * FROM group_window(p_space, p_group.cursor, p_upto, p_group.prefix) LOOP
        SELECT p.consumer INTO holder FROM group_pending AS p
        WHERE p.group_id = p_group.group_id AND p.key = entry.o_key LIMIT 1;
        IF NOT FOUND THEN holder := p_consumer; END IF;
        INSERT INTO group_pending (group_id, position, key, consumer, batch, deliveries)
        VALUES (p_group.group_id, entry.o_position, entry.o_key, holder, '', 0);
        IF holder = p_consumer THEN
            room := room - 1;
            IF room = 0 THEN
                upto := entry.o_position;
                EXIT;
            END IF;
        END IF;
    END LOOP;
    UPDATE groups SET cursor = upto WHERE group_id = p_group.group_id;
    RETURN upto;
END $$;

-- Entries are done, each as it was delivered the p_counts[i]-th time: one that was delivered again since is
-- being handled again.  How many of them were this consumer's.  What it acknowledged last counts again: it
-- is sent twice.
CREATE FUNCTION interlock.ack_group(
    p_space integer, p_group text, p_consumer text, p_positions bigint[], p_counts integer[]
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    c group_consumers;
    done bigint[];
    counted bigint[];
BEGIN
    PERFORM lock_space(p_space);
    SELECT m.* INTO c FROM groups AS g JOIN group_consumers AS m ON m.group_id = g.group_id
    WHERE g.space = p_space AND g.name = p_group AND m.consumer = p_consumer;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    WITH gone AS (
        DELETE FROM group_pending AS p USING unnest(p_positions, p_counts) AS a(position, count)
        WHERE p.group_id = c.group_id AND p.position = a.position AND p.consumer = p_consumer
            AND p.deliveries = a.count
        RETURNING p.position
    )
    SELECT array_agg(position) INTO done FROM gone;
    counted := ARRAY(
        SELECT unnest(done) UNION (SELECT unnest(c.acked) INTERSECT SELECT unnest(p_positions)));
    UPDATE group_consumers SET seen = clock_us(), acked = CASE WHEN done IS NULL THEN acked ELSE counted END
    WHERE group_id = c.group_id AND consumer = p_consumer;
    PERFORM durable(true);
    RETURN cardinality(counted);
END $$;

-- A group as it is; no rows where there is none.  Rows: group (key: its prefix, position: what it has
-- dealt the log up to, extra: where the log ends), consumer (agent, time: its last sign of life, live: 1
-- where it is alive, extra: how many entries are pending with it), pending (position, key, agent, extra:
-- how often it was delivered; the first p_limit).
CREATE FUNCTION interlock.group_state(p_space integer, p_group text, p_limit integer)
RETURNS SETOF answer
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
    g groups;
    now_us bigint := clock_us();
BEGIN
    SELECT * INTO g FROM groups WHERE space = p_space AND name = p_group;
    IF NOT FOUND THEN
        PERFORM floor_of(p_space);
        RETURN;
    END IF;
    r.what := 'group'; r.key := g.prefix; r.position := g.cursor;
    r.extra := log_end(p_space);
    RETURN NEXT r;
    RETURN QUERY SELECT 'consumer', 0, NULL, NULL, NULL, NULL, NULL::bigint, NULL::bigint, c.consumer,
        c.seen, NULL::bigint, alive(c.seen, c.seen + c.ttl, now_us)::integer::bigint, (
            SELECT count(*) FROM group_pending AS p
            WHERE p.group_id = c.group_id AND p.consumer = c.consumer)
    FROM group_consumers AS c WHERE c.group_id = g.group_id ORDER BY c.consumer;
    RETURN QUERY SELECT 'pending', 0, p.key, NULL, NULL, NULL, NULL::bigint, NULL::bigint, p.consumer,
        NULL::bigint, p.position, NULL::bigint, p.deliveries::bigint
    FROM group_pending AS p WHERE p.group_id = g.group_id ORDER BY p.position LIMIT p_limit;
END $$;

-- The names of the space's groups, in order.
CREATE FUNCTION interlock.list_groups(p_space integer) RETURNS TABLE (name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ SELECT g.name FROM groups AS g WHERE g.space = p_space AND floor_of(p_space) >= 0 ORDER BY g.name $$;

-- Forgets a group, with all that is pending in it.
CREATE FUNCTION interlock.drop_group(p_space integer, p_group text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    dropped bigint;
BEGIN
    PERFORM lock_space(p_space);
    DELETE FROM groups AS g WHERE g.space = p_space AND g.name = p_group
    RETURNING g.group_id INTO dropped;
    DELETE FROM group_pending AS p WHERE p.group_id = dropped;
    DELETE FROM group_consumers AS c WHERE c.group_id = dropped;
    PERFORM durable(true);
END $$;
