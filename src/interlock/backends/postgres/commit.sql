-- The atomic step in PostgreSQL: judges plans and applies them, in one call.  Then turns, leases and
-- incarnations.  See functions.sql for the rows of an answer.

-- What stands in a store for a plan of one key: version, epoch and liveness of the key, and whether nothing
-- stands against the plan.  Keys with a lease or a queue are not fine here: `judge` looks closer.  Inlined
-- into the statements that use it; LIMIT has each row looked up by its index, whatever the planner believes
-- of the tables.  p_version: null is not compared, -1 must not exist now; p_epoch: null is not compared.
CREATE FUNCTION interlock.standing(
    p_space integer, p_key text, p_version bigint, p_epoch bigint, p_op text, p_agent text,
    p_incarnation bigint, p_rules bigint
) RETURNS TABLE (version bigint, epoch bigint, fine boolean) LANGUAGE sql STABLE
AS $$
    SELECT COALESCE(h.version, 0), COALESCE(h.epoch, 0),
        (SELECT 1 FROM log AS l WHERE l.space = p_space AND l.op = p_op LIMIT 1) IS NULL
        AND p_incarnation = COALESCE((
            SELECT a.incarnation FROM agents AS a
            WHERE a.space = p_space AND a.agent = p_agent LIMIT 1), 0)
        AND (SELECT 1 FROM leases AS l WHERE l.space = p_space AND l.key = p_key LIMIT 1) IS NULL
        AND COALESCE(p_epoch = COALESCE(h.epoch, 0), true)
        AND p_rules = COALESCE((
            SELECT r.version FROM heads AS r
            WHERE r.space = p_space AND r.key = '$rules' LIMIT 1), 0)
        AND CASE p_version WHEN -1 THEN COALESCE(h.live, 0) = 0
            ELSE COALESCE(p_version = COALESCE(h.version, 0), true) END
        AND (SELECT 1 FROM ticket_keys AS q WHERE q.space = p_space AND q.key = p_key LIMIT 1) IS NULL
    FROM (SELECT 1) AS one LEFT JOIN LATERAL (
        SELECT heads.version, heads.epoch, heads.live FROM heads
        WHERE heads.space = p_space AND heads.key = p_key LIMIT 1
    ) AS h ON true
$$;

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
    SELECT w.version + 1, w.epoch, w.fine, p_seen = 0 OR EXISTS (
        SELECT 1 FROM log WHERE space = p_space AND position = p_seen AND op = p_seen_op)
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
    IF p_seen > 0 AND NOT EXISTS (
        SELECT 1 FROM log WHERE space = p_space AND position = p_seen AND op = p_seen_op)
    THEN
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

-- The rows of the first thing that stands against a plan; none where it may be applied.
CREATE FUNCTION interlock.judge(
    p_space integer, p_now bigint, p_n integer, p_op text, p_agent text,
    p_incarnation bigint, p_rules bigint, p_ticket bigint, p_yields boolean, p_expects text[],
    p_versions bigint[], p_epochs bigint[], p_writes text[], p_leased text[], p_scans json
) RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    i integer;
    number bigint;
    known boolean;
    rules_now bigint;
    versions bigint[];
    epochs bigint[];
    lives integer[];
    head heads;
BEGIN
    r.n := p_n;
    SELECT EXISTS (SELECT 1 FROM log WHERE space = p_space AND op = p_op),
        COALESCE((SELECT version FROM heads WHERE space = p_space AND key = '$rules'), 0)
    INTO known, rules_now;
    IF known THEN
        RETURN QUERY SELECT * FROM operation(p_space, p_op, p_n);
        RETURN;
    END IF;
    number := COALESCE((SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
    IF number <> p_incarnation THEN
        r.what := 'replaced'; r.version := number;
        RETURN NEXT r;
        RETURN;
    END IF;
    SELECT 'leased', l.key, l.holder, l.expires - p_now INTO r.what, r.key, r.agent, r.time
    FROM unnest(p_writes) WITH ORDINALITY AS w(key, i)
    JOIN leases AS l ON l.space = p_space AND l.key = w.key
    WHERE alive(l.renewed, l.expires, p_now) AND NOT w.key = ANY (p_leased)
    ORDER BY w.i LIMIT 1;
    IF FOUND THEN
        RETURN NEXT r;
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_expects) LOOP
        SELECT * INTO head FROM heads WHERE space = p_space AND key = p_expects[i];
        versions[i] := COALESCE(head.version, 0);
        epochs[i] := COALESCE(head.epoch, 0);
        lives[i] := COALESCE(head.live, 0);
    END LOOP;
    FOR i IN 1 .. cardinality(p_expects) LOOP
        IF p_epochs[i] <> epochs[i] THEN
            r.what := 'fenced'; r.key := p_expects[i]; r.epoch := epochs[i]; r.extra := i - 1;
            RETURN NEXT r;
            RETURN;
        END IF;
    END LOOP;
    IF p_rules <> rules_now THEN
        RETURN QUERY SELECT * FROM record(p_space, '$rules', 'outdated', p_n);
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_expects) LOOP
        IF COALESCE(p_versions[i] <> versions[i], lives[i] > 0) THEN
            r.what := 'which'; r.extra := i - 1;
            RETURN NEXT r;
            RETURN QUERY SELECT * FROM record(p_space, p_expects[i], 'moved', p_n);
            RETURN;
        END IF;
    END LOOP;
    IF p_scans IS NOT NULL THEN
        RETURN QUERY SELECT * FROM judge_scans(p_space, p_n, p_scans);
        IF FOUND THEN RETURN; END IF;
    END IF;
    RETURN QUERY SELECT * FROM judge_turns(p_space, p_now, p_n, p_ticket, p_yields, p_writes);
END $$;

-- The first key that differs between a scan as expected and as it is now.
CREATE FUNCTION interlock.judge_scans(p_space integer, p_n integer, p_scans json)
RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    scan record;
    found_key text;
BEGIN
    FOR scan IN SELECT row_number() OVER () - 1 AS i, x.* FROM json_to_recordset(p_scans)
        AS x(prefix text, upto text, keys text[], versions bigint[], epochs bigint[])
    LOOP
        SELECT COALESCE(m.key, h.key) INTO found_key
        FROM unnest(scan.keys, scan.versions, scan.epochs) AS m(key, version, epoch)
        FULL JOIN (
            SELECT key, version, epoch FROM heads
            WHERE space = p_space AND key >= scan.prefix AND (scan.upto IS NULL OR key < scan.upto)
                AND live > 0 AND left(key, 1) <> '$'
        ) AS h ON h.key = m.key
        WHERE (m.version, m.epoch) IS DISTINCT FROM (h.version, h.epoch)
        ORDER BY 1 LIMIT 1;
        IF FOUND THEN
            r.what := 'which'; r.n := p_n; r.extra := scan.i;
            RETURN NEXT r;
            RETURN QUERY SELECT * FROM record(p_space, found_key, 'scan', p_n);
            RETURN;
        END IF;
    END LOOP;
END $$;

-- The ticket whose turn it is for a key that the plan writes, where the plan must give way to it.
CREATE FUNCTION interlock.judge_turns(
    p_space integer, p_now bigint, p_n integer, p_ticket bigint, p_yields boolean, p_writes text[]
) RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    t tickets;
    written text;
BEGIN
    FOREACH written IN ARRAY p_writes LOOP
        SELECT * INTO t FROM first_ticket(p_space, written, p_now);
        IF t.ticket IS NOT NULL AND t.ticket <> p_ticket AND (p_yields OR t.firm) THEN
            r.what := 'turn'; r.n := p_n; r.key := written; r.agent := t.agent;
            r.time := t.expires - p_now;
            RETURN NEXT r;
            RETURN;
        END IF;
    END LOOP;
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

-- Turns

-- The live ticket whose turn it is.
CREATE FUNCTION interlock.first_ticket(p_space integer, p_key text, p_now bigint) RETURNS tickets
LANGUAGE sql
AS $$
    SELECT t FROM ticket_keys AS q JOIN tickets AS t ON t.space = q.space AND t.ticket = q.ticket
    WHERE q.space = p_space AND q.key = p_key AND alive(t.renewed, t.expires, p_now)
    ORDER BY q.ticket LIMIT 1
$$;

CREATE FUNCTION interlock.drop_ticket(p_space integer, p_ticket bigint) RETURNS void LANGUAGE sql
AS $$
    DELETE FROM ticket_keys WHERE space = p_space AND ticket = p_ticket;
    DELETE FROM tickets WHERE space = p_space AND ticket = p_ticket;
$$;

-- A place in the queue: place (position: the ticket, extra: live tickets ahead) and the rows of `load`.
CREATE FUNCTION interlock.place(p_space integer, p_ticket bigint, p_keys text[], p_now bigint)
RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
BEGIN
    r.what := 'place'; r.position := p_ticket;
    SELECT count(DISTINCT other.ticket) INTO r.extra
    FROM ticket_keys AS mine
    JOIN ticket_keys AS other
        ON other.space = mine.space AND other.key = mine.key AND other.ticket < mine.ticket
    JOIN tickets AS t ON t.space = other.space AND t.ticket = other.ticket
    WHERE mine.space = p_space AND mine.ticket = p_ticket AND alive(t.renewed, t.expires, p_now);
    RETURN NEXT r;
    RETURN QUERY SELECT * FROM load(
        p_space, CASE WHEN r.extra = 0 AND p_ticket > 0 THEN p_keys ELSE '{}' END, '{}', '{}', NULL);
END $$;

-- Joins the queues of keys (p_ticket 0) or renews a ticket.  Asking again soon only reads, without
-- the lock of the space.  Rows: those of `place`.
CREATE FUNCTION interlock.take_turn(
    p_space integer, p_keys text[], p_name text, p_agent text, p_ttl bigint, p_ticket bigint,
    p_firm boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_us bigint := clock_us();
    t tickets;
    number bigint := p_ticket;
BEGIN
    PERFORM durable(false);
    IF p_ticket > 0 THEN
        SELECT * INTO t FROM tickets WHERE space = p_space AND ticket = p_ticket
            AND alive(renewed, expires, now_us);
        IF NOT FOUND OR (t.expires - now_us >= p_ttl * 7 / 10 AND (t.firm OR NOT p_firm)) THEN
            RETURN QUERY SELECT * FROM place(p_space, COALESCE(t.ticket, 0), p_keys, now_us);
            RETURN;
        END IF;
    END IF;
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    now_us := clock_us();
    WITH dead AS (
        DELETE FROM tickets WHERE space = p_space AND NOT alive(renewed, expires, now_us)
        RETURNING ticket
    )
    DELETE FROM ticket_keys AS q USING dead WHERE q.space = p_space AND q.ticket = dead.ticket;
    IF p_ticket > 0 THEN
        UPDATE tickets SET renewed = now_us, expires = now_us + p_ttl, firm = firm OR p_firm
        WHERE space = p_space AND ticket = p_ticket;
        IF NOT FOUND THEN number := 0; END IF;
    ELSE
        SELECT ticket INTO number FROM tickets WHERE space = p_space AND name = p_name;
        IF NOT FOUND THEN
            UPDATE spaces SET tickets = tickets + 1 WHERE space = p_space RETURNING tickets INTO number;
            INSERT INTO tickets (space, ticket, name, agent, renewed, expires, firm)
            VALUES (p_space, number, p_name, p_agent, now_us, now_us + p_ttl, p_firm);
            INSERT INTO ticket_keys (space, key, ticket)
            SELECT p_space, key, number FROM unnest(p_keys) AS key;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM place(p_space, number, p_keys, now_us);
END $$;

-- Gives up a ticket, or (p_ticket 0) the one that was joined under a name.
CREATE FUNCTION interlock.leave_turn(p_space integer, p_ticket bigint, p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    PERFORM drop_ticket(p_space, t.ticket) FROM tickets AS t
    WHERE t.space = p_space AND (t.ticket = p_ticket OR (p_ticket = 0 AND t.name = p_name));
    PERFORM durable(false);
END $$;

-- Leases and incarnations

-- Comes into the space as an agent; p_exclusive raises the incarnation of the name, once for each
-- p_name.  Rows: entered (version: the incarnation), rules (a record).
CREATE FUNCTION interlock.enter(p_space integer, p_agent text, p_exclusive boolean, p_name text)
RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
BEGIN
    IF p_exclusive THEN
        PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
        INSERT INTO agents AS a (space, agent, incarnation, name) VALUES (p_space, p_agent, 1, p_name)
        ON CONFLICT (space, agent) DO UPDATE
        SET incarnation = a.incarnation + 1, name = excluded.name WHERE a.name <> excluded.name;
        PERFORM durable(true);
    END IF;
    r.what := 'entered';
    r.version := COALESCE((SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
    RETURN NEXT r;
    RETURN QUERY SELECT * FROM record(p_space, '$rules', 'rules', 0);
END $$;

-- Takes the lease of a key (p_epoch 0), renews it, or takes it away (p_reclaim).  Rows: rules (extra:
-- their version), then grant (live: 1 granted; agent and time: who has it for how long) or replaced
-- (version: the incarnation in force), then record.
CREATE FUNCTION interlock.take_lease(
    p_space integer, p_key text, p_queue text, p_name text, p_agent text, p_incarnation bigint,
    p_ttl bigint, p_epoch bigint, p_ticket bigint, p_reclaim boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
    l leases;
    t tickets;
    now_us bigint;
    number bigint;
BEGIN
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    now_us := clock_us();
    r.what := 'grant'; r.key := p_key; r.live := 0; r.time := 0;
    number := COALESCE((SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
    SELECT * INTO l FROM leases WHERE space = p_space AND key = p_key;
    IF number <> p_incarnation THEN
        r.what := 'replaced'; r.version := number;
    ELSIF p_epoch > 0 THEN  -- a renewal; an expired lease that nobody took may go on
        UPDATE leases SET renewed = now_us, expires = now_us + p_ttl
        WHERE space = p_space AND key = p_key AND epoch = p_epoch;
        r.live := FOUND::integer;
    ELSIF l.name = p_name THEN  -- sent twice
        r.live := (NOT p_reclaim)::integer;
    ELSIF p_reclaim THEN
        PERFORM set_lease(p_space, p_key, true, p_agent, p_name, now_us, now_us);
    ELSIF alive(l.renewed, l.expires, now_us) THEN
        r.agent := l.holder; r.time := l.expires - now_us;
    ELSE
        SELECT * INTO t FROM first_ticket(p_space, p_queue, now_us);
        IF t.ticket IS NOT NULL AND t.ticket <> p_ticket THEN
            r.agent := t.agent;
        ELSE
            PERFORM set_lease(p_space, p_key, false, p_agent, p_name, now_us, now_us + p_ttl);
            PERFORM drop_ticket(p_space, p_ticket);
            r.live := 1;
        END IF;
    END IF;
    PERFORM durable(true);
    RETURN NEXT r;
    RETURN QUERY SELECT * FROM record(p_space, p_key, 'record', 0);
    r := NULL;
    r.what := 'now';
    r.extra := COALESCE((SELECT version FROM heads WHERE space = p_space AND key = '$rules'), 0);
    RETURN NEXT r;
END $$;

-- Raises the epoch of a key and keeps a lease at it.  A reclaimed one stands at epoch 0 and has expired
-- already; it keeps the name of the request, so that sending it twice raises once.
CREATE FUNCTION interlock.set_lease(
    p_space integer, p_key text, p_reclaimed boolean, p_holder text, p_name text, p_renewed bigint,
    p_expires bigint
) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    raised bigint;
BEGIN
    INSERT INTO heads AS h (space, key, version, epoch, entry, live) VALUES (p_space, p_key, 0, 1, 0, 0)
    ON CONFLICT (space, key) DO UPDATE SET epoch = h.epoch + 1 RETURNING h.epoch INTO raised;
    INSERT INTO leases (space, key, epoch, holder, name, renewed, expires)
    VALUES (p_space, p_key, CASE WHEN p_reclaimed THEN 0 ELSE raised END, p_holder, p_name, p_renewed,
        p_expires)
    ON CONFLICT (space, key) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder,
        name = excluded.name, renewed = excluded.renewed, expires = excluded.expires;
END $$;

-- Gives up a lease held at an epoch, or (p_epoch 0) the one that was taken under a name.
CREATE FUNCTION interlock.drop_lease(p_space integer, p_key text, p_epoch bigint, p_name text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    DELETE FROM leases WHERE space = p_space AND key = p_key
        AND ((p_epoch > 0 AND epoch <= p_epoch) OR (p_epoch = 0 AND name = p_name));
    PERFORM durable(true);
END $$;
