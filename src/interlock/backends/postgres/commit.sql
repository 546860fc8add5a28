-- The atomic step in PostgreSQL: judges plans and applies them, in one call.
-- See functions.sql for the rows of an answer.

-- Judges one plan of one key and applies it: the same as `commit` with this plan alone, at less cost.
-- Arguments and rows: see `commit`.
CREATE FUNCTION interlock.commit_single(
    p_space integer, p_op text, p_agent text, p_incarnation bigint, p_rules bigint, p_yields boolean,
    p_reads text, p_key text, p_version bigint, p_epoch bigint, p_kind text, p_body text,
    p_ttl bigint, p_seen bigint, p_seen_op text, p_durable boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s spaces;
    r answer;
    there boolean;
    fine boolean;
    listed bigint;
    live bigint;
    now_us bigint;
BEGIN
    IF NOT is_operator() THEN
        PERFORM check_plan(p_space, p_agent, p_op, ARRAY[p_kind], ARRAY[p_key], '{}');
    END IF;
    s := lock_space(p_space);
    now_us := clock_us();
    -- Times never fall along the log, whatever the clock does.
    SELECT t.position + 1, GREATEST(t.time, now_us), w.version + 1, w.epoch, w.listed, w.fine,
        NOT is_lost(p_space, p_seen, p_seen_op)
    INTO r.position, r.time, r.version, r.epoch, listed, fine, there
    FROM tail(p_space) AS t,
        standing(p_space, p_key, p_version, p_epoch, p_op, p_agent, p_incarnation, p_rules, now_us) AS w;
    IF fine AND there THEN
        INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads, expires)
        VALUES (p_space, r.position, p_key, r.version, r.epoch, p_kind, p_body, p_agent, r.time, p_op,
            p_reads, r.time + p_ttl);
        live := live_after(p_kind, r.time + p_ttl);
        IF listed IS DISTINCT FROM live THEN
            PERFORM list_key(p_space, p_key, live);
        END IF;
        IF s.listened > r.time THEN
            PERFORM pg_notify('interlock_' || p_space, r.position::text);
        END IF;
        IF NOT p_durable OR current_setting('synchronous_commit') = 'off' THEN
            PERFORM durable(p_durable);
        END IF;
        r.what := 'done'; r.n := 0;
        RETURN NEXT r;
        RETURN;
    END IF;
    IF there THEN
        RETURN QUERY SELECT * FROM bounded(ARRAY(SELECT a FROM commit(p_space, json_build_array(json_build_object(
            'n', 0, 'op', p_op, 'agent', p_agent, 'incarnation', p_incarnation, 'rules', p_rules,
            'ticket', 0, 'yields', p_yields, 'reads', p_reads, 'key', p_key, 'version', p_version,
            'epoch', p_epoch, 'kind', p_kind, 'body', p_body, 'ttl', p_ttl)), 0, '', p_durable) AS a));
    ELSE
        PERFORM durable(false);
        r := NULL;
        r.what := 'back'; r.position := log_end(p_space);
        RETURN NEXT r;
    END IF;
END $$;

-- Judges each plan of an array, in order, against what the store holds and what those before it wrote,
-- and applies it where nothing stands against it.  A plan: n (its number), op, agent, incarnation, rules,
-- ticket, yields, reads; then either
--   key, version, epoch, kind, body, ttl (microseconds until the value expires, or null): it puts or appends to one key, computed from that key at most (version
--   null: from nothing, -1: it must not exist now, below that: as in `standing`; epoch null: not compared), under no ticket and no lease,
--   and no other plan of the array has its operation id or, unless both append from nothing, its key;
--   bodies (an array in place of body): it appends all of them to that key, from nothing; or
--   expects (keys, versions: null is `must not exist now`, epochs: null is not compared); kinds, writes
--   (keys), bodies, ttls; leased (keys); scans (null, or an array of {prefix, upto, keys, versions, epochs}).
-- p_seen and p_seen_op: the position and operation of a commit that the caller knows of; p_durable: whether
-- the answer waits for the disk, also where it says that a plan was applied before: whoever applied it may
-- not have waited.  Rows, by n:
--   done (position, version, epoch, time) for each write; op (kind) for each entry of a plan that was
--   applied before; or the first refusal of
--   replaced (version: the incarnation in force), leased (key, agent, time: until it expires),
--   fenced (key, epoch in force), outdated (the record of $rules),
--   moved (a record; position of the expectation in `extra` of a row `which`), scan (a record; `which`),
--   turn (key, agent, time: until it expires)
-- and, alone, back (position): that commit is not in the log: commits were lost.
CREATE FUNCTION interlock.commit(
    p_space integer, p_plans json, p_seen bigint, p_seen_op text, p_durable boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    s spaces;
    p record;
    r answer;
    total integer;
    applied integer;
    said boolean := false;  -- that a plan was applied before
    start bigint;
    last bigint;
    time_us bigint;
    now_us bigint;
BEGIN
    IF NOT is_operator() THEN
        PERFORM check_plan(p_space, x.agent, x.op, COALESCE(x.kinds, ARRAY[x.kind]),
            COALESCE(x.writes, ARRAY[x.key]), COALESCE(x.leased, '{}'))
        FROM json_to_recordset(p_plans) AS x(
            op text, agent text, key text, kind text, kinds text[], writes text[], leased text[]);
    END IF;
    s := lock_space(p_space);
    now_us := clock_us();
    SELECT t.position, GREATEST(t.time, now_us) INTO start, time_us FROM tail(p_space) AS t;
    IF is_lost(p_space, p_seen, p_seen_op) THEN
        r.what := 'back'; r.position := start;
        RETURN NEXT r;
        RETURN;
    END IF;
    SELECT sum(COALESCE(json_array_length(x -> 'bodies'), 1)) INTO total FROM json_array_elements(p_plans) AS x;
    -- Those of one key that nothing stands against, all in one statement.  Keys with a lease or a queue
    -- are left to `commit_one`, as is whatever is refused.
    RETURN QUERY
    WITH fine AS MATERIALIZED (
        SELECT p.n, p.op, p.agent, p.reads, p.key, p.kind, b.body, time_us + p.ttl AS expires, w.epoch,
            w.listed, w.version + row_number() OVER (PARTITION BY p.key ORDER BY p.n, b.i) AS version,
            start + row_number() OVER (ORDER BY p.n, b.i) AS position
        FROM json_to_recordset(p_plans) AS p(
            n integer, op text, agent text, incarnation bigint, rules bigint, reads text, key text,
            version bigint, epoch bigint, kind text, body text, bodies text[], ttl bigint)
        CROSS JOIN LATERAL standing(p_space, p.key, p.version, p.epoch, p.op, p.agent, p.incarnation,
            p.rules, now_us) AS w
        CROSS JOIN LATERAL unnest(COALESCE(p.bodies, ARRAY[p.body])) WITH ORDINALITY AS b(body, i)
        WHERE p.key IS NOT NULL AND w.fine
    ), logged AS (
        INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads, expires)
        SELECT p_space, position, key, version, epoch, kind, body, agent, time_us, op, reads, expires
        FROM fine
        ORDER BY position
    ), headed AS (
        INSERT INTO heads (space, key, epoch, live)
        SELECT DISTINCT ON (key) p_space, key, 0, live_after(kind, expires)
        FROM fine WHERE listed IS DISTINCT FROM live_after(kind, expires) ORDER BY key, version DESC
        ON CONFLICT (space, key) DO UPDATE SET live = excluded.live
    )
    SELECT 'done', n, NULL, NULL, NULL, NULL, version, epoch, NULL, time_us, position, NULL::bigint,
        NULL::bigint
    FROM fine ORDER BY position;
    GET DIAGNOSTICS applied = ROW_COUNT;
    last := start + applied;
    IF applied < total THEN
        FOR p IN SELECT * FROM json_to_recordset(p_plans) AS x(
            n integer, op text, agent text, incarnation bigint, rules bigint, ticket bigint,
            yields boolean, reads text, key text, version bigint, epoch bigint, kind text, body text,
            ttl bigint, expects text[], versions bigint[], epochs bigint[], kinds text[], writes text[],
            bodies text[], ttls bigint[], leased text[], scans json)
        LOOP
            CONTINUE WHEN p.key IS NOT NULL AND EXISTS (
                SELECT 1 FROM log AS l
                WHERE l.space = p_space AND l.op = p.op AND l.position > start);
            IF p.key IS NOT NULL THEN
                p.bodies := COALESCE(p.bodies, ARRAY[p.body]);
                p.writes := array_fill(p.key, ARRAY[cardinality(p.bodies)]);
                p.kinds := array_fill(p.kind, ARRAY[cardinality(p.bodies)]);
                p.ttls := array_fill(p.ttl, ARRAY[cardinality(p.bodies)]);
                p.expects := CASE WHEN p.version IS NULL THEN '{}' ELSE ARRAY[p.key] END;
                p.versions := ARRAY[NULLIF(p.version, -1)]; p.epochs := ARRAY[p.epoch];
                p.leased := '{}';
            END IF;
            FOR r IN SELECT * FROM commit_one(p_space, last, now_us, time_us, p.n, p.op, p.agent,
                p.incarnation, p.rules, p.ticket, p.yields, p.reads, p.expects, p.versions, p.epochs,
                p.kinds, p.writes, p.bodies, p.ttls, p.leased, p.scans)
            LOOP
                IF r.what = 'done' THEN last := r.position; END IF;
                said := said OR r.what = 'op';
                RETURN NEXT r;
            END LOOP;
        END LOOP;
    END IF;
    IF last > start AND s.listened > time_us THEN
        PERFORM pg_notify('interlock_' || p_space, last::text);
    END IF;
    said := said OR last > start;
    IF NOT p_durable OR NOT said OR current_setting('synchronous_commit') = 'off' THEN
        PERFORM durable(p_durable AND said);
    END IF;
END $$;

-- Judges one plan and applies it where nothing stands against it.  Rows: those of `commit`.
CREATE FUNCTION interlock.commit_one(
    p_space integer, p_position bigint, p_now bigint, p_time bigint, p_n integer, p_op text,
    p_agent text, p_incarnation bigint, p_rules bigint, p_ticket bigint, p_yields boolean, p_reads text,
    p_expects text[], p_versions bigint[], p_epochs bigint[], p_kinds text[], p_writes text[],
    p_bodies text[], p_ttls bigint[], p_leased text[], p_scans json
) RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    refused boolean := false;
    replayed boolean := false;
BEGIN
    FOR r IN SELECT * FROM judge(p_space, p_now, p_n, p_op, p_agent, p_incarnation, p_rules, p_ticket,
        p_yields, p_expects, p_versions, p_epochs, p_writes, p_leased, p_scans)
    LOOP
        refused := true; replayed := r.what = 'op';
        RETURN NEXT r;
    END LOOP;
    IF NOT refused THEN
        FOR i IN 1 .. cardinality(p_writes) LOOP
            r := NULL;
            r.what := 'done'; r.n := p_n; r.time := p_time; r.position := p_position + i;
            SELECT * FROM apply(p_space, r.position, p_time, p_op, p_agent, p_reads, p_kinds[i],
                p_writes[i], p_bodies[i], p_time + p_ttls[i], p_writes[i] = ANY (p_leased))
            INTO r.version, r.epoch;
            RETURN NEXT r;
        END LOOP;
    END IF;
    IF p_ticket > 0 AND (NOT refused OR replayed) THEN
        PERFORM drop_ticket(p_space, p_ticket);
    END IF;
END $$;

-- Whether the transaction's answer waits for the disk: for all that was committed before it, too, since
-- the server flushes its log, and sends it to a standby, in order.  It waits only where the transaction
-- itself wrote or locked a row.  A server set to wait for more is left alone.
CREATE FUNCTION interlock.durable(p_durable boolean) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT p_durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
END $$;

-- Writes one log row and its head; the version and epoch of the key.  Writing over a lease that has
-- expired takes it away: its holder is fenced from here on.
CREATE FUNCTION interlock.apply(
    p_space integer, p_position bigint, p_time bigint, p_op text, p_agent text, p_reads text,
    p_kind text, p_key text, p_body text, p_expires bigint, p_leased boolean,
    OUT o_version bigint, OUT o_epoch bigint
) LANGUAGE plpgsql
AS $$
DECLARE
    was bigint;
    listed bigint;
    leased_at bigint;
BEGIN
    SELECT h.version + 1, h.epoch, h.live, h.listed INTO o_version, o_epoch, was, listed
    FROM head(p_space, p_key) AS h;
    IF NOT COALESCE(p_leased, false) THEN
        DELETE FROM leases WHERE space = p_space AND key = p_key RETURNING epoch INTO leased_at;
        IF leased_at = o_epoch THEN  -- otherwise a reclaim has raised it already
            o_epoch := o_epoch + 1;
        END IF;
    END IF;
    INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads, expires)
    VALUES (p_space, p_position, p_key, o_version, o_epoch, p_kind, p_body, p_agent, p_time, p_op,
        p_reads, p_expires);
    IF listed IS DISTINCT FROM live_after(p_kind, p_expires) THEN
        PERFORM list_key(p_space, p_key, live_after(p_kind, p_expires));
    END IF;
    IF p_kind = 'delete' AND was = 2 THEN
        PERFORM keep_fold(p_space, p_key, p_position, NULL);
    END IF;
END $$;

-- Has a key listed in heads as what it is now.
CREATE FUNCTION interlock.list_key(p_space integer, p_key text, p_live bigint) RETURNS void
LANGUAGE sql
AS $$
    INSERT INTO heads (space, key, epoch, live) VALUES (p_space, p_key, 0, p_live)
    ON CONFLICT (space, key) DO UPDATE SET live = excluded.live
$$;

-- Keeps a fold as of a position, never over a later one.
CREATE FUNCTION interlock.keep_fold(p_space integer, p_key text, p_position bigint, p_body text)
RETURNS void LANGUAGE sql
AS $$
    INSERT INTO folds AS f (space, key, entry, body) VALUES (p_space, p_key, p_position, p_body)
    ON CONFLICT (space, key) DO UPDATE SET entry = excluded.entry, body = excluded.body
    WHERE excluded.entry > f.entry
$$;

-- Keeps a fold where the rules are still at version p_rules, and nothing was erased since.
CREATE FUNCTION interlock.save_fold(
    p_space integer, p_key text, p_position bigint, p_body text, p_rules bigint, p_erasures bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM lock_space(p_space);
    IF p_rules = rules_version(p_space) AND p_erasures = erasures_of(p_space) THEN
        PERFORM keep_fold(p_space, p_key, p_position, p_body);
    END IF;
    PERFORM durable(false);
END $$;
