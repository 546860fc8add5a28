-- Trimming the log of a space in PostgreSQL.  See schema.sql for what is left of what is cut.

-- Cuts the log up to a position, the end of a commit, where no consumer group and no kept projection needs
-- what is cut, and where p_erasures steps have erased values, as when the folds were made; p_bodies[i] is the
-- fold there of the merged key p_keys[i].  One row: the position that it is cut up to now, the first position
-- that a group or projection still needs, with its name, how many entries were cut, and the steps that have
-- erased values.
CREATE FUNCTION interlock.trim(
    p_space integer, p_upto bigint, p_keys text[], p_bodies text[], p_erasures bigint
) RETURNS TABLE (floor bigint, needed bigint, name text, cut bigint, erased bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    last record;
    fold text;
BEGIN
    IF p_upto > 0 THEN
        PERFORM lock_space(p_space);
        PERFORM durable(true);
    END IF;
    floor := floor_of(p_space);
    cut := 0;
    erased := erasures_of(p_space);
    SELECT n.first, n.name INTO needed, name FROM (
        SELECT LEAST(g.cursor + 1,
            (SELECT min(p.position) FROM group_pending AS p WHERE p.group_id = g.group_id)) AS first, g.name
        FROM groups AS g WHERE g.space = p_space
        UNION ALL
        SELECT f.entry + 1, f.key FROM folds AS f
        WHERE f.space = p_space AND f.key >= '$projection/' AND f.key < '$projection0'
    ) AS n ORDER BY n.first, n.name LIMIT 1;
    IF p_upto <= floor OR p_upto >= needed OR p_erasures <> erased THEN
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
    cut := p_upto - floor;
    floor := p_upto;
    RETURN NEXT;
END $$;

-- Keeps a projection as of a position, never over a later one, where the log is there from it on, and
-- nothing was erased since p_erasures steps had (NULL: it is made of no entry).
CREATE FUNCTION interlock.save_projection(
    p_space integer, p_name text, p_position bigint, p_body text, p_erasures bigint
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM lock_space(p_space);
    IF p_position BETWEEN floor_of(p_space) AND log_end(p_space)
        AND COALESCE(p_erasures = erasures_of(p_space), true)
    THEN
        PERFORM keep_fold(p_space, p_name, p_position, p_body);
    END IF;
    PERFORM durable(false);
END $$;

-- What is kept of a projection: one row at most.
CREATE FUNCTION interlock.load_projection(p_space integer, p_name text)
RETURNS TABLE ("position" bigint, body text, erasures bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
    SELECT f.entry, f.body, erasures_of(p_space) FROM folds AS f
    WHERE f.space = p_space AND f.key = p_name AND floor_of(p_space) >= 0
$$;

-- Forgets what is kept of a projection.
CREATE FUNCTION interlock.drop_projection(p_space integer, p_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$
BEGIN
    DELETE FROM folds AS f WHERE f.space = p_space AND f.key = p_name;
    PERFORM wait_for_all();  -- it may have been deleted by another sending
END $$;
