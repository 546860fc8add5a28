-- What stands against a plan in PostgreSQL.  Each question is asked in two places: in `standing`, which
-- says yes or no for the usual plan, and in `judge`, which says what it is.
-- See functions.sql for the rows of an answer.

-- What stands in a store for a plan of one key: version and epoch of the key and its row in heads, and whether
-- nothing stands against the plan.  Keys with a lease or a queue are not fine here: `judge` looks closer.  Inlined
-- into the statements that use it; LIMIT has each row looked up by its index, whatever the planner believes
-- of the tables.  p_version: null is not compared, -1 must not exist now, below that the value of version
-- -(p_version + 1) must have expired; p_epoch: null is not compared.
CREATE FUNCTION interlock.standing(
    p_space integer, p_key text, p_version bigint, p_epoch bigint, p_op text, p_agent text,
    p_incarnation bigint, p_rules bigint, p_now bigint
) RETURNS TABLE (version bigint, epoch bigint, listed bigint, fine boolean) LANGUAGE sql STABLE
AS $$
    SELECT h.version, h.epoch, h.listed,
        (SELECT 1 FROM interlock.log AS l WHERE l.space = p_space AND l.op = p_op LIMIT 1) IS NULL
        AND p_incarnation = COALESCE((
            SELECT a.incarnation FROM interlock.agents AS a
            WHERE a.space = p_space AND a.agent = p_agent LIMIT 1), 0)
        AND (SELECT 1 FROM interlock.leases AS l WHERE l.space = p_space AND l.key = p_key LIMIT 1) IS NULL
        AND COALESCE(p_epoch = h.epoch, true)
        AND p_rules = interlock.rules_version(p_space)
        AND CASE p_version WHEN -1 THEN interlock.as_of(h.live, p_now) <= 0
            ELSE COALESCE(p_version = interlock.observed(h.version, h.live, p_now), true) END
        AND (SELECT 1 FROM interlock.ticket_keys AS q WHERE q.space = p_space AND q.key = p_key LIMIT 1) IS NULL
    FROM interlock.head(p_space, p_key) AS h
$$;

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
    lives bigint[];
    current record;
BEGIN
    r.n := p_n;
    SELECT EXISTS (SELECT 1 FROM log WHERE space = p_space AND op = p_op),
        rules_version(p_space)
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
        SELECT * INTO current FROM head(p_space, p_expects[i]);
        versions[i] := observed(current.version, current.live, p_now);
        epochs[i] := current.epoch; lives[i] := as_of(current.live, p_now);
    END LOOP;
    FOR i IN 1 .. cardinality(p_expects) LOOP
        IF p_epochs[i] <> epochs[i] THEN
            r.what := 'fenced'; r.key := p_expects[i]; r.epoch := epochs[i]; r.extra := i - 1;
            RETURN NEXT r;
            RETURN;
        END IF;
    END LOOP;
    IF p_rules <> rules_now THEN
        RETURN QUERY SELECT * FROM record(p_space, '$rules', 'outdated', p_n, p_now);
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_expects) LOOP
        IF COALESCE(p_versions[i] <> versions[i], lives[i] > 0) THEN
            r.what := 'which'; r.extra := i - 1;
            RETURN NEXT r;
            RETURN QUERY SELECT * FROM record(p_space, p_expects[i], 'moved', p_n, p_now);
            RETURN;
        END IF;
    END LOOP;
    IF p_scans IS NOT NULL THEN
        RETURN QUERY SELECT * FROM judge_scans(p_space, p_now, p_n, p_scans);
        IF FOUND THEN RETURN; END IF;
    END IF;
    RETURN QUERY SELECT * FROM judge_turns(p_space, p_now, p_n, p_ticket, p_yields, p_writes);
END $$;

-- The first key that differs between a scan as expected and as it is now.
CREATE FUNCTION interlock.judge_scans(p_space integer, p_now bigint, p_n integer, p_scans json)
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
            SELECT k.key, l.version, GREATEST(l.epoch, k.epoch) AS epoch
            FROM heads AS k
            CROSS JOIN LATERAL last_entry(p_space, k.key, 9223372036854775807) AS l
            WHERE k.space = p_space AND k.key >= scan.prefix
                AND k.key < COALESCE(scan.upto, after_every_key())
                AND as_of(k.live, p_now) > 0 AND (scan.prefix <> '' OR left(k.key, 1) <> '$')
        ) AS h ON h.key = m.key
        WHERE (m.version, m.epoch) IS DISTINCT FROM (h.version, h.epoch)
        ORDER BY 1 LIMIT 1;
        IF FOUND THEN
            r.what := 'which'; r.n := p_n; r.extra := scan.i;
            RETURN NEXT r;
            RETURN QUERY SELECT * FROM record(p_space, found_key, 'scan', p_n, p_now);
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
