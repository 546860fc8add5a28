-- Leases and incarnations in PostgreSQL: who may write at all.
-- See functions.sql for the rows of an answer.

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
