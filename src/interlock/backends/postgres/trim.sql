-- Trimming the log of a space in PostgreSQL.  See schema.sql for what is left of what is cut.

-- Cuts the log up to a position, the end of a commit, where no consumer group needs what is cut; p_bodies[i]
-- is the fold there of the merged key p_keys[i].  One row: the position that it is cut up to now, and the
-- first position that a group still needs, with its name.
CREATE FUNCTION interlock.trim(p_space integer, p_upto bigint, p_keys text[], p_bodies text[])
RETURNS TABLE (floor bigint, needed bigint, name text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    last record;
    fold text;
BEGIN
    IF p_upto > 0 THEN
        PERFORM 1 FROM spaces AS s WHERE s.space = p_space FOR UPDATE;
    END IF;
    floor := floor_of(p_space);
    SELECT LEAST(g.cursor + 1,
        (SELECT min(p.position) FROM group_pending AS p WHERE p.group_id = g.group_id)) AS first, g.name
    INTO needed, name
    FROM groups AS g WHERE g.space = p_space ORDER BY first, g.name LIMIT 1;
    IF p_upto <= floor OR p_upto >= needed THEN
        RETURN NEXT;
        RETURN;
    END IF;
    FOR last IN
        SELECT l.key, max(l.position) AS entry FROM log AS l
        WHERE l.space = p_space AND l.position > floor AND l.position <= p_upto GROUP BY l.key
    LOOP
        DELETE FROM log AS l
        WHERE l.space = p_space AND l.key = last.key AND l.position < last.entry;
        fold := p_bodies[array_position(p_keys, last.key)];
        UPDATE log AS l SET op = '', reads = NULL,
            kind = CASE WHEN fold IS NULL THEN l.kind ELSE 'fold' END, body = COALESCE(fold, l.body)
        WHERE l.space = p_space AND l.position = last.entry;
        IF fold IS NOT NULL THEN
            PERFORM keep_fold(p_space, last.key, last.entry, fold);
        END IF;
    END LOOP;
    UPDATE spaces AS s SET trimmed = p_upto WHERE s.space = p_space;
    floor := p_upto;
    PERFORM durable(true);
    RETURN NEXT;
END $$;
