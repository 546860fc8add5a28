-- The atomic step in PostgreSQL: judges plans and applies them, in one call.  Then turns, leases and
-- incarnations.  See functions.sql for the rows of an answer.

-- Judges each plan of an array, in order, against what the store holds and what those before it wrote,
-- and applies it where nothing stands against it.  A plan: n (its number), op, agent, incarnation, rules,
-- ticket, yields, reads; expects (keys, versions: null is `must not exist now`, epochs: null is not
-- compared); kinds, writes (keys), bodies; leased (keys); scans (null, or an array of
-- {prefix, upto, keys, versions, epochs}, in the order of the keys).  p_seen and p_seen_op: the position
-- and operation of a commit that the caller knows of; p_durable: whether the answer waits for the disk.  Rows, by n:
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
AS $$
DECLARE
    s spaces;
    p record;
    r answer;
    now_us bigint;
    time_us bigint;
    start bigint;
    flags integer;
    refused boolean;
    replayed boolean;
BEGIN
    SELECT * INTO s FROM spaces WHERE space = p_space FOR UPDATE;
    IF is_lost(p_space, p_seen, p_seen_op) THEN
        r.what := 'back'; r.position := s.position;
        RETURN NEXT r;
        RETURN;
    END IF;
    start := s.position;
    now_us := clock_us();
    time_us := GREATEST(now_us, s.time);  -- times never fall along the log, whatever the clock does
    SELECT (EXISTS (SELECT 1 FROM tickets WHERE space = p_space))::integer
        + 2 * (EXISTS (SELECT 1 FROM leases WHERE space = p_space))::integer
        + 4 * (EXISTS (SELECT 1 FROM agents WHERE space = p_space))::integer INTO flags;
    FOR p IN SELECT * FROM json_to_recordset(p_plans) AS x(
        n integer, op text, agent text, incarnation bigint, rules bigint, ticket bigint, yields boolean,
        reads text, expects text[], versions bigint[], epochs bigint[], kinds text[], writes text[],
        bodies text[], leased text[], scans json)
    LOOP
        refused := false; replayed := false;
        FOR r IN SELECT * FROM judge(p_space, now_us, flags, p.n, p.op, p.agent, p.incarnation, p.rules,
            p.ticket, p.yields, p.expects, p.versions, p.epochs, p.writes, p.leased, p.scans)
        LOOP
            refused := true; replayed := r.what = 'op';
            RETURN NEXT r;
        END LOOP;
        IF NOT refused THEN
            r := NULL;
            r.what := 'done'; r.n := p.n; r.time := time_us;
            FOR i IN 1 .. cardinality(p.writes) LOOP
                s.position := s.position + 1;
                r.position := s.position;
                SELECT * FROM apply(p_space, s.position, time_us, p.op, p.agent, p.reads, p.kinds[i],
                    p.writes[i], p.bodies[i], p.writes[i] = ANY (p.leased), flags)
                INTO r.version, r.epoch;
                RETURN NEXT r;
            END LOOP;
        END IF;
        IF p.ticket > 0 AND (NOT refused OR replayed) THEN
            PERFORM drop_ticket(p_space, p.ticket);
        END IF;
    END LOOP;
    IF s.position > start THEN
        UPDATE spaces SET position = s.position, time = time_us WHERE space = p_space;
        IF s.listened > now_us THEN
            PERFORM pg_notify('interlock_' || p_space, s.position::text);
        END IF;
    END IF;
    PERFORM durable(p_durable AND s.position > start);
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

-- The rows of the first thing that stands against a plan; none where it may be applied.  flags: whether
-- the space has any ticket (1), any lease (2), any incarnation (4).
CREATE FUNCTION interlock.judge(
    p_space integer, p_now bigint, p_flags integer, p_n integer, p_op text, p_agent text,
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
    IF p_flags & 4 > 0 THEN
        number := COALESCE(
            (SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
        IF number <> p_incarnation THEN
            r.what := 'replaced'; r.version := number;
            RETURN NEXT r;
            RETURN;
        END IF;
    END IF;
    IF p_flags & 2 > 0 THEN
        SELECT 'leased', l.key, l.holder, l.expires - p_now INTO r.what, r.key, r.agent, r.time
        FROM unnest(p_writes) WITH ORDINALITY AS w(key, i)
        JOIN leases AS l ON l.space = p_space AND l.key = w.key
        WHERE alive(l.renewed, l.expires, p_now) AND NOT w.key = ANY (p_leased)
        ORDER BY w.i LIMIT 1;
        IF FOUND THEN
            RETURN NEXT r;
            RETURN;
        END IF;
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
    IF p_flags & 1 > 0 THEN
        RETURN QUERY SELECT * FROM judge_turns(p_space, p_now, p_n, p_ticket, p_yields, p_writes);
    END IF;
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
    p_kind text, p_key text, p_body text, p_leased boolean, p_flags integer,
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
    IF p_flags & 2 > 0 AND NOT COALESCE(p_leased, false) THEN
        DELETE FROM leases WHERE space = p_space AND key = p_key RETURNING epoch INTO leased_at;
        IF leased_at = o_epoch THEN  -- otherwise a reclaim has raised it already
            o_epoch := o_epoch + 1;
        END IF;
    END IF;
    INSERT INTO log (space, position, key, version, epoch, kind, body, agent, time, op, reads)
    VALUES (p_space, p_position, p_key, o_version, o_epoch, p_kind, p_body, p_agent, p_time, p_op,
        p_reads);
    INSERT INTO heads (space, key, version, epoch, entry, live)
    VALUES (p_space, p_key, o_version, o_epoch, p_position,
        CASE p_kind WHEN 'delete' THEN 0 WHEN 'append' THEN 2 ELSE 1 END)
    ON CONFLICT (space, key) DO UPDATE SET version = excluded.version, epoch = excluded.epoch,
        entry = excluded.entry, live = excluded.live;
    IF p_kind = 'delete' AND was = 2 THEN
        PERFORM keep_fold(p_space, p_key, p_position, NULL);
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
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
        p_space, CASE WHEN r.extra = 0 AND p_ticket > 0 THEN p_keys ELSE '{}' END, '{}', '{}', NULL,
        0, '');
END $$;

-- Joins the queues of keys (p_ticket 0) or renews a ticket.  Asking again soon only reads, without
-- the lock of the space.  Rows: those of `place`.
CREATE FUNCTION interlock.take_turn(
    p_space integer, p_keys text[], p_name text, p_agent text, p_ttl bigint, p_ticket bigint,
    p_firm boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off
AS $$
BEGIN
    PERFORM 1 FROM spaces WHERE space = p_space FOR UPDATE;
    DELETE FROM leases WHERE space = p_space AND key = p_key
        AND ((p_epoch > 0 AND epoch <= p_epoch) OR (p_epoch = 0 AND name = p_name));
    PERFORM durable(true);
END $$;
