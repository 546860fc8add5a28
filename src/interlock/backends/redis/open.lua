-- The space of a name, made where it does not exist.
-- KEYS: those of common.lua.  ARGV: 1 unique id for a new space, 2 schema version for a new space.
-- Answers {unique id, schema version}.

local lib = library()
call('HSETNX', STATE, 'schema', ARGV[2])
call('HSETNX', STATE, 'uid', ARGV[1])
return {call('HGET', STATE, 'uid'), lib.number_of('schema')}
