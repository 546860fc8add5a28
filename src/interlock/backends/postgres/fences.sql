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
        PERFORM check_writer();
        PERFORM check_agent(p_agent);
        PERFORM lock_space(p_space);
        INSERT INTO agents AS a (space, agent, incarnation, name) VALUES (p_space, p_agent, 1, p_name)
        ON CONFLICT (space, agent) DO UPDATE
        SET incarnation = a.incarnation + 1, name = excluded.name WHERE a.name <> excluded.name;
        PERFORM durable(true);
    END IF;
    PERFORM floor_of(p_space);
    r.what := 'entered';
    r.version := COALESCE((SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
    RETURN NEXT r;
    RETURN QUERY SELECT * FROM record(p_space, '$rules', 'rules', 0, 0);
END $$;

-- Takes the leases of keys (p_epoch 0), all or none, renews one, or takes one away (p_reclaim).  Rows: grant
-- (live: 1 granted; key, agent and time: what, who has it for how long) or replaced (version: the incarnation
-- in force), then a record for each key, then now (extra: the version of the rules).
CREATE FUNCTION interlock.take_lease(
    p_space integer, p_keys text[], p_name text, p_agent text, p_incarnation bigint, p_ttl bigint,
    p_epoch bigint, p_ticket bigint, p_reclaim boolean
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    r answer;
    now_us bigint;
    number bigint;
    i integer;
BEGIN
    PERFORM check_agent(p_agent);
    IF p_reclaim THEN
        PERFORM check_operator('reclaim a lease');
    END IF;
    PERFORM lock_space(p_space);
    now_us := clock_us();
    r.what := 'grant'; r.key := p_keys[1]; r.live := 0; r.time := 0;
    number := COALESCE((SELECT incarnation FROM agents WHERE space = p_space AND agent = p_agent), 0);
    IF number <> p_incarnation THEN
        r.what := 'replaced'; r.version := number;
    ELSIF p_epoch > 0 THEN  -- a renewal; an expired lease that nobody took may go on
        UPDATE leases SET renewed = now_us, expires = now_us + p_ttl
        WHERE space = p_space AND key = p_keys[1] AND epoch = p_epoch AND may_be(holder);
        r.live := FOUND::integer;
    ELSIF (SELECT count(*) FROM leases WHERE space = p_space AND key = ANY (p_keys) AND name = p_name)
        = cardinality(p_keys)
    THEN  -- sent twice
        r.live := (NOT p_reclaim)::integer;
    ELSIF p_reclaim THEN
        PERFORM set_lease(p_space, p_keys[1], true, p_agent, p_name, now_us, now_us);
    ELSE
        -- Sent twice, and one of the others was lost meanwhile: none of them is held.
        DELETE FROM leases WHERE space = p_space AND key = ANY (p_keys) AND name = p_name;
        SELECT k, h.holder, h.left_us INTO r.key, r.agent, r.time
        FROM unnest(p_keys) WITH ORDINALITY AS a(k, n) CROSS JOIN LATERAL (
            SELECT l.holder, l.expires - now_us AS left_us FROM leases AS l
            WHERE l.space = p_space AND l.key = k AND alive(l.renewed, l.expires, now_us)
            UNION ALL
            SELECT q.agent, 0 FROM queue(p_space, '$lease/' || k, now_us, NULL, 1) AS q
            WHERE q.ticket <> p_ticket
        ) AS h ORDER BY n, h.left_us DESC LIMIT 1;
        IF NOT FOUND THEN
            FOR i IN 1 .. cardinality(p_keys) LOOP
                PERFORM set_lease(
                    p_space, p_keys[i], false, p_agent, p_name, now_us, now_us + p_ttl);
            END LOOP;
            PERFORM drop_ticket(p_space, p_ticket);
            r.key := p_keys[1]; r.live := 1; r.time := 0;
        END IF;
    END IF;
    PERFORM durable(true);
    RETURN NEXT r;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        RETURN QUERY SELECT * FROM record(p_space, p_keys[i], 'record', i - 1, now_us);
    END LOOP;
    r := NULL;
    r.what := 'now';
    r.extra := rules_version(p_space);
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
    SELECT h.epoch + 1 INTO raised FROM head(p_space, p_key) AS h;
    INSERT INTO heads (space, key, epoch, live) VALUES (p_space, p_key, raised, 0)
    ON CONFLICT (space, key) DO UPDATE SET epoch = excluded.epoch;
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
    PERFORM lock_space(p_space);
    DELETE FROM leases WHERE space = p_space AND key = p_key
        AND may_be(holder) AND ((p_epoch > 0 AND epoch <= p_epoch) OR (p_epoch = 0 AND name = p_name));
    PERFORM durable(true);
END $$;
