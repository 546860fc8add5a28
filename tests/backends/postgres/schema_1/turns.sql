-- The queues for keys in PostgreSQL: joining, renewing, asking for the place, leaving.
-- See functions.sql for the rows of an answer.

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
