-- The atomic step in PostgreSQL: judges plans and applies them, in one call.
-- See functions.sql for the rows of an answer.

-- Judges one plan of one key and applies it: the same as `commit` with this plan alone, at less cost.
-- Arguments and rows: see `commit`.
CREATE FUNCTION interlock.commit_single(
    p_space integer, p_op text, p_agent text, p_incarnation bigint, p_rules bigint, p_yields boolean,
    p_reads text, p_key text, p_version bigint, p_epoch bigint, p_kind text, p_body text, p_seen bigint,
    p_seen_op text, p_durable boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s spaces;
    r answer;
    there boolean;
    fine boolean;
BEGIN
    UPDATE spaces SET position = position + 1, time = GREATEST(time, clock_us())
    WHERE space = p_space RETURNING * INTO s;
    SELECT w.version + 1, w.epoch, w.fine, NOT is_lost(p_space, p_seen, p_seen_op)
    INTO r.version, r.epoch, fine, there
    FROM standing(p_space, p_key, p_version, p_epoch, p_op, p_agent, p_incarnation, p_rules) AS w;
    IF fine AND there THEN
        INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads)
        VALUES (p_space, s.position, p_key, r.version, r.epoch, p_kind, p_body, p_agent, s.time, p_op,
            p_reads);
        PERFORM set_head(p_space, p_key, r.version, r.epoch, s.position, p_kind);
        IF s.listened > s.time THEN
            PERFORM pg_notify('interlock_' || p_space, s.position::text);
        END IF;
        IF NOT p_durable OR current_setting('synchronous_commit') = 'off' THEN
            PERFORM durable(p_durable);
        END IF;
        r.what := 'done'; r.n := 0; r.position := s.position; r.time := s.time;
        RETURN NEXT r;
        RETURN;
    END IF;
    s.position := s.position - 1;
    UPDATE spaces SET position = s.position WHERE space = p_space;
    PERFORM durable(false);
    IF there THEN
        RETURN QUERY SELECT * FROM commit(p_space, json_build_array(json_build_object(
            'n', 0, 'op', p_op, 'agent', p_agent, 'incarnation', p_incarnation, 'rules', p_rules,
            'ticket', 0, 'yields', p_yields, 'reads', p_reads, 'key', p_key, 'version', p_version,
            'epoch', p_epoch, 'kind', p_kind, 'body', p_body)), 0, '', p_durable);
    ELSE
        r := NULL;
        r.what := 'back'; r.position := s.position;
        RETURN NEXT r;
    END IF;
END $$;

-- Judges each plan of an array, in order, against what the store holds and what those before it wrote,
-- and applies it where nothing stands against it.  A plan: n (its number), op, agent, incarnation, rules,
-- ticket, yields, reads; then either
--   key, version, epoch, kind, body: it puts or appends to one key, computed from that key at most (version
--   null: from nothing, -1: it must not exist now; epoch null: not compared), under no ticket and no lease,
--   and no other plan of the array has its operation id or, unless both append from nothing, its key; or
--   expects (keys, versions: null is `must not exist now`, epochs: null is not compared); kinds, writes
--   (keys), bodies; leased (keys); scans (null, or an array of {prefix, upto, keys, versions, epochs}).
-- p_seen and p_seen_op: the position and operation of a commit that the caller knows of; p_durable: whether
-- the answer waits for the disk.  Rows, by n:
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
    total integer := json_array_length(p_plans);
    applied integer;
    start bigint;
    now_us bigint;
BEGIN
    -- The positions that most calls use up; set right below where some plan is refused or writes more.
    -- Times never fall along the log, whatever the clock does.
    UPDATE spaces SET position = position + total, time = GREATEST(time, clock_us())
    WHERE space = p_space RETURNING * INTO s;
    start := s.position - total;
    IF is_lost(p_space, p_seen, p_seen_op) THEN
        UPDATE spaces SET position = start WHERE space = p_space;
        r.what := 'back'; r.position := start;
        RETURN NEXT r;
        RETURN;
    END IF;
    -- Those of one key that nothing stands against, all in one statement.  Keys with a lease or a queue
    -- are left to `commit_one`, as is whatever is refused.
    RETURN QUERY
    WITH fine AS MATERIALIZED (
        SELECT p.n, p.op, p.agent, p.reads, p.key, p.kind, p.body, w.epoch,
            w.version + row_number() OVER (PARTITION BY p.key ORDER BY p.n) AS version,
            start + row_number() OVER (ORDER BY p.n) AS position
        FROM json_to_recordset(p_plans) AS p(
            n integer, op text, agent text, incarnation bigint, rules bigint, reads text, key text,
            version bigint, epoch bigint, kind text, body text)
        CROSS JOIN LATERAL standing(p_space, p.key, p.version, p.epoch, p.op, p.agent, p.incarnation,
            p.rules) AS w
        WHERE p.key IS NOT NULL AND w.fine
    ), logged AS (
        INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads)
        SELECT p_space, position, key, version, epoch, kind, body, agent, s.time, op, reads FROM fine
        ORDER BY position
    ), headed AS (
        INSERT INTO heads (space, key, version, epoch, entry, live)
        SELECT DISTINCT ON (key) p_space, key, version, epoch, position,
            CASE kind WHEN 'append' THEN 2 ELSE 1 END
        FROM fine ORDER BY key, version DESC
        ON CONFLICT (space, key) DO UPDATE SET version = excluded.version, epoch = excluded.epoch,
            entry = excluded.entry, live = excluded.live
    )
    SELECT 'done', n, NULL, NULL, NULL, NULL, version, epoch, NULL, s.time, position, NULL::integer,
        NULL::bigint
    FROM fine;
    GET DIAGNOSTICS applied = ROW_COUNT;
    IF applied < total THEN
        now_us := clock_us();
        s.position := start + applied;
        FOR p IN SELECT * FROM json_to_recordset(p_plans) AS x(
            n integer, op text, agent text, incarnation bigint, rules bigint, ticket bigint,
            yields boolean, reads text, key text, version bigint, epoch bigint, kind text, body text,
            expects text[], versions bigint[], epochs bigint[], kinds text[], writes text[],
            bodies text[], leased text[], scans json)
        LOOP
            CONTINUE WHEN p.key IS NOT NULL AND EXISTS (
                SELECT 1 FROM log AS l
                WHERE l.space = p_space AND l.op = p.op AND l.position > start);
            IF p.key IS NOT NULL THEN
                p.writes := ARRAY[p.key]; p.kinds := ARRAY[p.kind]; p.bodies := ARRAY[p.body];
                p.expects := CASE WHEN p.version IS NULL THEN '{}' ELSE ARRAY[p.key] END;
                p.versions := ARRAY[NULLIF(p.version, -1)]; p.epochs := ARRAY[p.epoch];
                p.leased := '{}';
            END IF;
            FOR r IN SELECT * FROM commit_one(p_space, s.position, now_us, s.time, p.n, p.op, p.agent,
                p.incarnation, p.rules, p.ticket, p.yields, p.reads, p.expects, p.versions, p.epochs,
                p.kinds, p.writes, p.bodies, p.leased, p.scans)
            LOOP
                IF r.what = 'done' THEN s.position := r.position; END IF;
                RETURN NEXT r;
            END LOOP;
        END LOOP;
        UPDATE spaces SET position = s.position WHERE space = p_space;
    END IF;
    IF s.position > start AND s.listened > s.time THEN
        PERFORM pg_notify('interlock_' || p_space, s.position::text);
    END IF;
    IF NOT p_durable OR s.position = start OR current_setting('synchronous_commit') = 'off' THEN
        PERFORM durable(p_durable AND s.position > start);
    END IF;
END $$;

-- Judges one plan and applies it where nothing stands against it.  Rows: those of `commit`.
CREATE FUNCTION interlock.commit_one(
    p_space integer, p_position bigint, p_now bigint, p_time bigint, p_n integer, p_op text,
    p_agent text, p_incarnation bigint, p_rules bigint, p_ticket bigint, p_yields boolean, p_reads text,
    p_expects text[], p_versions bigint[], p_epochs bigint[], p_kinds text[], p_writes text[],
    p_bodies text[], p_leased text[], p_scans json
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
                p_writes[i], p_bodies[i], p_writes[i] = ANY (p_leased))
            INTO r.version, r.epoch;
            RETURN NEXT r;
        END LOOP;
    END IF;
    IF p_ticket > 0 AND (NOT refused OR replayed) THEN
        PERFORM drop_ticket(p_space, p_ticket);
    END IF;
END $$;

-- Whether the transaction's answer waits for the disk.  A server set to wait for more is left alone.
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
    p_kind text, p_key text, p_body text, p_leased boolean,
    OUT o_version bigint, OUT o_epoch bigint
) LANGUAGE plpgsql
AS $$
DECLARE
    was integer;
    leased_at bigint;
BEGIN
    SELECT version + 1, epoch, live INTO o_version, o_epoch, was
    FROM heads WHERE space = p_space AND key = p_key;
    IF NOT FOUND THEN
        o_version := 1; o_epoch := 0; was := 0;
    END IF;
    IF NOT COALESCE(p_leased, false) THEN
        DELETE FROM leases WHERE space = p_space AND key = p_key RETURNING epoch INTO leased_at;
        IF leased_at = o_epoch THEN  -- otherwise a reclaim has raised it already
            o_epoch := o_epoch + 1;
        END IF;
    END IF;
    INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads)
    VALUES (p_space, p_position, p_key, o_version, o_epoch, p_kind, p_body, p_agent, p_time, p_op,
        p_reads);
    PERFORM set_head(p_space, p_key, o_version, o_epoch, p_position, p_kind);
    IF p_kind = 'delete' AND was = 2 THEN
        PERFORM keep_fold(p_space, p_key, p_position, NULL);
    END IF;
END $$;

-- What a key is after a write of a kind.
CREATE FUNCTION interlock.set_head(
    p_space integer, p_key text, p_version bigint, p_epoch bigint, p_entry bigint, p_kind text
) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    p_live integer := CASE p_kind WHEN 'delete' THEN 0 WHEN 'append' THEN 2 ELSE 1 END;
BEGIN
    UPDATE heads SET version = p_version, epoch = p_epoch, entry = p_entry, live = p_live
    WHERE space = p_space AND key = p_key;
    IF NOT FOUND THEN
        INSERT INTO heads (space, key, version, epoch, entry, live)
        VALUES (p_space, p_key, p_version, p_epoch, p_entry, p_live);
    END IF;
END $$;

-- Keeps a fold as of a position, never over a later one.
CREATE FUNCTION interlock.keep_fold(p_space integer, p_key text, p_position bigint, p_body text)
RETURNS void LANGUAGE sql
AS $$
    INSERT INTO folds AS f (space, key, entry, body) VALUES (p_space, p_key, p_position, p_body)
    ON CONFLICT (space, key) DO UPDATE SET entry = excluded.entry, body = excluded.body
    WHERE excluded.entry > f.entry
$$;

-- Keeps a fold where the rules are still at version p_rules.
CREATE FUNCTION interlock.save_fold(
    p_space integer, p_key text, p_position bigint, p_body text, p_rules bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    IF p_rules = COALESCE(
        (SELECT version FROM heads WHERE space = p_space AND key = '$rules'), 0)
    THEN
        PERFORM keep_fold(p_space, p_key, p_position, p_body);
    END IF;
    PERFORM durable(false);
END $$;
