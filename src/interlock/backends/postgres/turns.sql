-- The queues for keys in PostgreSQL: joining, renewing, asking for the place, leaving.
-- See functions.sql for the rows of an answer.  A question costs the same however long the queue is: LATERAL
-- and LIMIT have each row looked up by its index, whatever the planner believes of the tables.

-- The first live tickets in the queue of a key, at most p_most, those before p_before (null: all).
CREATE FUNCTION interlock.queue(
    p_space integer, p_key text, p_now bigint, p_before bigint, p_most integer
) RETURNS SETOF tickets LANGUAGE sql STABLE
AS $$
    SELECT t.* FROM (
        SELECT ticket FROM ticket_keys
        WHERE space = p_space AND key = p_key AND ticket < COALESCE(p_before, 9223372036854775807)
        ORDER BY ticket
    ) AS q CROSS JOIN LATERAL (
        SELECT * FROM tickets WHERE space = p_space AND ticket = q.ticket
            AND alive(renewed, expires, p_now) LIMIT 1
    ) AS t LIMIT p_most
$$;

-- The live ticket whose turn it is.
CREATE FUNCTION interlock.first_ticket(p_space integer, p_key text, p_now bigint) RETURNS tickets
LANGUAGE sql STABLE
AS $$ SELECT q FROM queue(p_space, p_key, p_now, NULL, 1) AS q $$;

-- The live tickets whose callers have meanwhile what was granted under a name.
CREATE FUNCTION interlock.holders(p_space integer, p_name text, p_now bigint) RETURNS SETOF bigint
LANGUAGE sql STABLE
AS $$
    SELECT h.ticket FROM ticket_holds AS h CROSS JOIN LATERAL (
        SELECT 1 FROM tickets WHERE space = p_space AND ticket = h.ticket
            AND alive(renewed, expires, p_now) LIMIT 1
    ) AS t WHERE h.space = p_space AND h.name = p_name
$$;

CREATE FUNCTION interlock.drop_ticket(p_space integer, p_ticket bigint) RETURNS void LANGUAGE sql
AS $$
    DELETE FROM ticket_keys WHERE space = p_space AND ticket = p_ticket;
    DELETE FROM ticket_holds WHERE space = p_space AND ticket = p_ticket;
    DELETE FROM tickets WHERE space = p_space AND ticket = p_ticket;
$$;

-- Forgets the dead at the heads of queues, and among the oldest tickets of the space.
CREATE FUNCTION interlock.drop_dead(p_space integer, p_keys text[], p_now bigint) RETURNS void
LANGUAGE sql
AS $$
    SELECT drop_ticket(p_space, dead.ticket) FROM (
        SELECT q.ticket FROM unnest(p_keys) AS k CROSS JOIN LATERAL (
            SELECT ticket FROM ticket_keys WHERE space = p_space AND key = k ORDER BY ticket LIMIT 64
        ) AS q
        UNION
        (SELECT ticket FROM tickets WHERE space = p_space ORDER BY ticket LIMIT 16)
    ) AS dead CROSS JOIN LATERAL (
        SELECT 1 FROM tickets WHERE space = p_space AND ticket = dead.ticket
            AND NOT alive(renewed, expires, p_now) LIMIT 1
    ) AS t
$$;

-- What a ticket waits for: whoever is first in its queues; the holder of a lease that it is queued for; and,
-- where its turn has come, what its caller waits for inside (no key then, and last).  By key, in that order.
CREATE FUNCTION interlock.waits_of(p_space integer, p_ticket bigint, p_now bigint)
RETURNS TABLE (next bigint, key text, waiter text, holder text) LANGUAGE sql STABLE
AS $$
    SELECT w.next, w.key, w.waiter, w.holder FROM (
    SELECT f.ticket AS next, q.key AS key, me.agent AS waiter, f.agent AS holder, 1 AS kind
    FROM tickets AS me JOIN ticket_keys AS q ON q.space = me.space AND q.ticket = me.ticket
    CROSS JOIN LATERAL queue(p_space, q.key, p_now, NULL, 1) AS f
    WHERE me.space = p_space AND me.ticket = p_ticket AND f.ticket <> p_ticket
    UNION ALL
    SELECT h, q.key, me.agent, l.holder, 2
    FROM tickets AS me JOIN ticket_keys AS q ON q.space = me.space AND q.ticket = me.ticket
    JOIN leases AS l ON l.space = p_space AND '$lease/' || l.key = q.key
        AND l.key = substr(q.key, 8)
    CROSS JOIN LATERAL holders(p_space, l.name, p_now) AS h
    WHERE me.space = p_space AND me.ticket = p_ticket AND alive(l.renewed, l.expires, p_now)
    UNION ALL
    SELECT h, NULL, NULL, NULL, 3
    FROM tickets AS me CROSS JOIN LATERAL holders(p_space, me.name, p_now) AS h
    WHERE me.space = p_space AND me.ticket = p_ticket
    ) AS w ORDER BY w.key COLLATE "C" NULLS LAST, w.kind, w.next
$$;

-- Whether a ticket waits for itself through others that joined before it: for each wait of the cycle wait
-- (key; agent: who waits; body: for whom).  One statement, so that all of it is one moment.  Of several
-- cycles the shortest, and of those the one of the first keys.
CREATE FUNCTION interlock.cycle(p_space integer, p_ticket bigint, p_now bigint)
RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    waits text[];
    i integer;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM ticket_holds WHERE space = p_space AND ticket = p_ticket)
        AND (SELECT count(*) FROM ticket_keys WHERE space = p_space AND ticket = p_ticket) < 2
    THEN
        RETURN;  -- nobody can wait for it
    END IF;
    WITH RECURSIVE walk AS (
        SELECT p_ticket AS ticket, '{}'::bigint[] AS seen, '{}'::bigint[] AS ranks, '{}'::text[] AS path
        UNION ALL
        SELECT e.next, w.seen || e.next, w.ranks || e.rank,
            w.path || CASE WHEN e.key IS NULL THEN '{}' ELSE ARRAY[e.key, e.waiter, e.holder] END
        FROM walk AS w CROSS JOIN LATERAL waits_of(p_space, w.ticket, p_now)
            WITH ORDINALITY AS e (next, key, waiter, holder, rank)
        WHERE e.next <= p_ticket AND NOT e.next = ANY (w.seen) AND NOT p_ticket = ANY (w.seen)
    )
    SELECT path INTO waits FROM walk WHERE ticket = p_ticket AND seen <> '{}'
    ORDER BY cardinality(ranks), ranks LIMIT 1;
    r.what := 'wait';
    FOR i IN 1 .. COALESCE(cardinality(waits), 0) / 3 LOOP
        r.n := i - 1; r.key := waits[3 * i - 2]; r.agent := waits[3 * i - 1]; r.body := waits[3 * i];
        RETURN NEXT r;
    END LOOP;
END $$;

-- A place in the queue: place (position: the ticket, extra: live tickets ahead, beyond 16 about so many),
-- the rows of `cycle`, and those of `load`.  Whoever is first and may be silent for long is given the time of
-- one who is near.
CREATE FUNCTION interlock.place(
    p_space integer, p_ticket bigint, p_keys text[], p_now bigint, p_ttl bigint
) RETURNS SETOF answer LANGUAGE plpgsql
AS $$
DECLARE
    r answer;
    mine record;
    others bigint[];
    near bigint[] := '{}';
    far bigint := 0;
    first tickets;
BEGIN
    FOR mine IN SELECT key FROM ticket_keys WHERE space = p_space AND ticket = p_ticket LOOP
        others := ARRAY(SELECT q.ticket FROM queue(p_space, mine.key, p_now, p_ticket, 16) AS q);
        near := near || others;
        IF cardinality(others) = 16 THEN
            far := greatest(far, (SELECT count(*) FROM (
                SELECT 1 FROM ticket_keys WHERE space = p_space AND key = mine.key AND ticket < p_ticket
                ORDER BY ticket LIMIT 1000) AS those));
        END IF;
        SELECT * INTO first FROM tickets WHERE space = p_space AND ticket = others[1];
        IF first.expires - p_now > 2 * p_ttl THEN
            UPDATE tickets SET expires = p_now + p_ttl WHERE space = p_space AND ticket = first.ticket;
        END IF;
    END LOOP;
    r.what := 'place'; r.position := p_ticket;
    SELECT greatest(far, count(DISTINCT n)) INTO r.extra FROM unnest(near) AS n;
    RETURN NEXT r;
    RETURN QUERY SELECT * FROM cycle(p_space, p_ticket, p_now);
    RETURN QUERY SELECT * FROM load(
        p_space, CASE WHEN r.extra = 0 AND p_ticket > 0 THEN p_keys ELSE '{}' END, '{}', '{}', NULL,
        0, '');
END $$;

-- Joins the queues of keys (p_ticket 0) or renews a ticket.  Asking again soon only reads, and only joining
-- and holding others back needs the lock of the space.  Rows: those of `place`.
CREATE FUNCTION interlock.take_turn(
    p_space integer, p_keys text[], p_name text, p_agent text, p_ttl bigint, p_ticket bigint,
    p_firm boolean, p_holding text[]
) RETURNS SETOF answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    now_us bigint := clock_us();
    t tickets;
    number bigint := p_ticket;
BEGIN
    PERFORM check_agent(p_agent);
    PERFORM durable(false);
    IF p_ticket > 0 THEN
        SELECT * INTO t FROM tickets WHERE space = p_space AND ticket = p_ticket
            AND alive(renewed, expires, now_us);
        IF NOT FOUND OR ((t.expires - now_us) * 10 BETWEEN p_ttl * 7 AND p_ttl * 13
            AND (t.firm OR NOT p_firm))
        THEN
            RETURN QUERY SELECT * FROM place(
                p_space, COALESCE(t.ticket, 0), p_keys, now_us, p_ttl);
            RETURN;
        END IF;
    END IF;
    IF p_ticket = 0 OR p_firm THEN
        PERFORM lock_space(p_space);
        now_us := clock_us();
    END IF;
    PERFORM drop_dead(p_space, p_keys, now_us);
    IF p_ticket > 0 THEN
        UPDATE tickets SET renewed = now_us, expires = now_us + p_ttl, firm = firm OR p_firm
        WHERE space = p_space AND ticket = p_ticket AND alive(renewed, expires, now_us);
        IF NOT FOUND THEN number := 0; END IF;
    ELSE
        SELECT * INTO t FROM tickets WHERE space = p_space AND name = p_name;
        IF FOUND AND alive(t.renewed, t.expires, now_us) THEN
            number := t.ticket;
        ELSE
            PERFORM drop_ticket(p_space, t.ticket);
            number := nextval('ticket_numbers');
            INSERT INTO tickets (space, ticket, name, agent, renewed, expires, firm)
            VALUES (p_space, number, p_name, p_agent, now_us, now_us + p_ttl, p_firm);
            INSERT INTO ticket_keys (space, key, ticket)
            SELECT p_space, key, number FROM unnest(p_keys) AS key;
            INSERT INTO ticket_holds (space, name, ticket)
            SELECT p_space, held, number FROM unnest(p_holding) AS held;
        END IF;
    END IF;
    RETURN QUERY SELECT * FROM place(p_space, number, p_keys, now_us, p_ttl);
END $$;

-- Gives up a ticket, or (p_ticket 0) the one that was joined under a name.
CREATE FUNCTION interlock.leave_turn(p_space integer, p_ticket bigint, p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM lock_space(p_space);
    PERFORM drop_ticket(p_space, t.ticket) FROM tickets AS t
    WHERE t.space = p_space AND may_be(t.agent) AND (t.ticket = p_ticket OR (p_ticket = 0 AND t.name = p_name));
    PERFORM durable(false);
END $$;
