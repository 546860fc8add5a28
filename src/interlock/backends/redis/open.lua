-- The space of a name, made where it does not exist.
-- KEYS: those of common.lua.  ARGV: 1 unique id for a new space ('': make none), 2 schema version of the caller.
-- Answers {unique id, schema version}; {'', 0} where there is no space and none is to be made.

local lib = library()
local uid, position, cut = unpack(call('HMGET', STATE, 'uid', 'p', 'c'))
check_whole(position, cut)
if not uid and call('EXISTS', STATE .. ':groups', STATE .. ':projections') > 0 then
    missing(STATE, 'is not there, but there are consumer groups or projections')
end
if not uid and ARGV[1] == '' then return {'', 0} end
call('HSETNX', STATE, 'uid', ARGV[1])
if lib.number_of('schema') < tonumber(ARGV[2]) then
    call('HSET', STATE, 'schema', ARGV[2])
    if position then call('HSETNX', STATE, 'x', 2 ^ 30) end  -- schema 1 did not know
end
return {call('HGET', STATE, 'uid'), lib.number_of('schema')}
