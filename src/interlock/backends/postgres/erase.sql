-- Erasing values in PostgreSQL.  What an update leaves in the pages of a table goes with the next VACUUM FULL.

-- Takes the values of the entries at p_positions, of the keys p_keys, out of the log, and what is kept of
-- projections that include any of the entries.  p_bases: [key, position, new value or null] of what a key was
-- where the log is cut.  p_folds: the merged keys whose folds begin anew, and whose epochs are raised.  One row:
-- how many values of entries and of folds are gone, and the names of the projections.
CREATE FUNCTION interlock.redact(
    p_space integer, p_keys text[], p_positions bigint[], p_bases json, p_folds text[]
) RETURNS TABLE (entries bigint, folded bigint, projections text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = interlock, pg_temp SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    each text;
    changed bigint;
    since bigint;
BEGIN
    PERFORM lock_space(p_space);
    PERFORM durable(true);
    UPDATE log AS l SET body = NULL
    WHERE l.space = p_space AND l.position = ANY (p_positions) AND l.key = ANY (p_keys)
        AND l.kind <> 'delete' AND l.body IS NOT NULL;
    GET DIAGNOSTICS entries = ROW_COUNT;
    UPDATE log AS l SET body = b.base ->> 2 FROM json_array_elements(p_bases) AS b(base)
    WHERE l.space = p_space AND l.position = (b.base ->> 1)::bigint AND l.key = b.base ->> 0
        AND l.kind <> 'delete' AND l.body IS DISTINCT FROM b.base ->> 2;
    GET DIAGNOSTICS changed = ROW_COUNT;
    entries := entries + changed;
    DELETE FROM folds AS f WHERE f.space = p_space AND f.key = ANY (p_folds);
    GET DIAGNOSTICS folded = ROW_COUNT;
    FOREACH each IN ARRAY p_folds LOOP  -- each begins where the contributions that the log has begin
        -- What was read before is not what the key is now.
        INSERT INTO heads (space, key, epoch, live)
        SELECT p_space, each, h.epoch + 1, 0 FROM head(p_space, each) AS h
        ON CONFLICT (space, key) DO UPDATE SET epoch = excluded.epoch;
        INSERT INTO folds (space, key, entry, body)
        SELECT l.space, l.key, l.position, l.body FROM log AS l
        WHERE l.space = p_space AND l.key = each AND l.kind IN ('delete', 'fold')
        ORDER BY l.position DESC LIMIT 1;
    END LOOP;
    SELECT min(p) INTO since FROM (
        SELECT unnest(p_positions) AS p
        UNION ALL SELECT (b.base ->> 1)::bigint FROM json_array_elements(p_bases) AS b(base)
    ) AS touched;
    WITH gone AS (
        DELETE FROM folds AS f WHERE f.space = p_space
            AND f.key >= '$projection/' AND f.key < '$projection0' AND f.entry >= since
        RETURNING f.key
    ) SELECT COALESCE(json_agg(gone.key), '[]')::text INTO projections FROM gone;
    UPDATE spaces AS s SET erasures = s.erasures + 1 WHERE s.space = p_space;
    RETURN NEXT;
END $$;

-- Forgets answers that were kept to be fetched; whoever still wants one sends its request again.
-- (Those of every space: p_space only says where from.)
CREATE FUNCTION interlock.scrub(p_space integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = interlock, pg_temp
AS $$ DELETE FROM answers $$;
