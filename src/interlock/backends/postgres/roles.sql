-- What the roles of a database may do in a store in PostgreSQL: readers, writers and operators.  Which of the
-- functions a role may execute says it; there is no table of roles.  A right counts for the role that logged
-- in (session_user), and is inherited as all rights are.
--
-- The rules of a space are checked by the library, not here: a writer that goes round the library can write
-- any key but those named below.

-- Rights without a function of their own: whoever may execute one of these has it.
CREATE FUNCTION interlock.act_as_writer() RETURNS void LANGUAGE sql AS $$ SELECT NULL::void $$;
CREATE FUNCTION interlock.act_as_any_agent() RETURNS void LANGUAGE sql AS $$ SELECT NULL::void $$;
CREATE FUNCTION interlock.act_as_operator() RETURNS void LANGUAGE sql AS $$ SELECT NULL::void $$;

-- Whether the role has such a right.
CREATE FUNCTION interlock.may(p_right regprocedure) RETURNS boolean LANGUAGE sql STABLE
AS $$ SELECT has_function_privilege(session_user, p_right, 'EXECUTE') $$;

CREATE FUNCTION interlock.is_operator() RETURNS boolean LANGUAGE sql STABLE
AS $$ SELECT may('interlock.act_as_operator()'::regprocedure) $$;

-- Whether the role may act as an agent: one of its own name, or of a name below it.
CREATE FUNCTION interlock.may_be(p_agent text) RETURNS boolean LANGUAGE sql STABLE
AS $$
    SELECT may('interlock.act_as_any_agent()'::regprocedure) OR p_agent = session_user
        OR starts_with(p_agent, session_user || '/')
$$;

CREATE FUNCTION interlock.refuse(p_what text) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    RAISE insufficient_privilege
    USING MESSAGE = format('permission denied for role %s: %s', session_user, p_what);
END $$;

CREATE FUNCTION interlock.check_writer() RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT may('interlock.act_as_writer()'::regprocedure) THEN
        PERFORM refuse('it may only read');
    END IF;
END $$;

CREATE FUNCTION interlock.check_operator(p_what text) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT is_operator() THEN
        PERFORM refuse('only an operator may ' || p_what);
    END IF;
END $$;

CREATE FUNCTION interlock.check_agent(p_agent text) RETURNS void LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT may_be(p_agent) THEN
        PERFORM refuse(format('it may not act as agent %s', p_agent));
    END IF;
END $$;

-- What a writer may commit.  p_leased: keys whose lease it says that it has.
CREATE FUNCTION interlock.check_plan(
    p_space integer, p_agent text, p_op text, p_kinds text[], p_keys text[], p_leased text[]
) RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    each text;
BEGIN
    PERFORM check_agent(p_agent);
    IF NOT p_kinds <@ ARRAY['put', 'append', 'delete'] OR p_op IS NULL OR p_op = ''
        OR octet_length(p_op) > 1000
    THEN
        PERFORM refuse('it may not write what the library does not write');
    END IF;
    FOREACH each IN ARRAY p_keys LOOP
        IF each = '' OR octet_length(each) > 512 THEN
            PERFORM refuse('a key has 1 to 512 bytes');
        ELSIF each = '$rules' THEN
            PERFORM check_operator('change the rules');
        ELSIF starts_with(each, '$') AND NOT may('interlock.act_as_any_agent()'::regprocedure) THEN
            PERFORM refuse(format('it may not write %s, which the library keeps for itself', each));
        END IF;
    END LOOP;
    IF EXISTS (
        SELECT 1 FROM leases AS l WHERE l.space = p_space AND l.key = ANY (p_leased)
            AND l.holder <> p_agent AND alive(l.renewed, l.expires, clock_us()))
    THEN
        PERFORM refuse('another agent has the lease');
    END IF;
END $$;

-- Gives a role the rights of a `reader`, `writer` or `operator`, instead of those it had.  p_own_name: a writer
-- acts only as the agent of its own name (or name/...), and writes no key of the library's own: no runs, no
-- breakers, no coordinators.  For the owner of the schema.
CREATE FUNCTION interlock.grant_role(p_role text, p_as text, p_own_name boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql
AS $$
DECLARE
    each regprocedure;
    names text[] := ARRAY['open_space', 'enter', 'load', 'load_at', 'read_log', 'log_end', 'listen_until',
        'read_refusals', 'group_state', 'list_groups', 'load_projection', 'bounded', 'fetch_answers',
        'fetch_deliveries', 'list_keys', 'list_expired', 'list_waiters', 'list_spaces', 'name_spaces', 'find_space', 'dump', 'read_base', 'examine'];
BEGIN
    IF p_as IS NULL OR p_as NOT IN ('reader', 'writer', 'operator') THEN
        RAISE invalid_parameter_value
        USING MESSAGE = format('%L is not reader, writer or operator', p_as);
    END IF;
    IF p_as <> 'reader' THEN
        names := names || ARRAY['act_as_writer', 'commit', 'commit_single', 'add_refusals', 'take_lease',
            'drop_lease', 'take_turn', 'leave_turn', 'read_group', 'ack_group', 'create_space'];
    END IF;
    IF p_as = 'operator' OR (p_as = 'writer' AND NOT p_own_name) THEN
        names := names || 'act_as_any_agent'::text;
    END IF;
    IF p_as = 'operator' THEN
        names := names || ARRAY['act_as_operator', 'trim', 'redact', 'scrub', 'save_fold',
            'save_projection', 'drop_projection', 'drop_group', 'drop_space', 'rename_space',
            'begin_import', 'import_mark', 'restore', 'finish_import'];
    END IF;
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA interlock FROM %I', p_role);
    EXECUTE format('GRANT USAGE ON SCHEMA interlock TO %I', p_role);
    FOR each IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'interlock'::regnamespace AND proname = ANY (names)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', each, p_role);
    END LOOP;
END $$;
