-- The space of a name, made where it does not exist.
-- KEYS: those of common.lua.  ARGV: 1 unique id for a new space ('': make none), 2 schema version of the caller.
-- Answers {unique id, schema version, source of an unfinished import or ''}; {'', 0, ''} where there is no space
-- and none is to be made.

local lib = library()
local position, cut, importing = END, CUT, call('HGET', STATE, 'importing')
if importing then return {uid, lib.number_of('schema'), importing} end
check_whole(position, cut)
if not uid and call('EXISTS', STATE .. ':groups', STATE .. ':projections') > 0 then
    missing(STATE, 'is not there, but there are consumer groups or projections')
end
if not uid and ARGV[1] == '' then return {'', 0, ''} end
call('HSETNX', STATE, 'uid', ARGV[1])
if lib.number_of('schema') < tonumber(ARGV[2]) then
    call('HSET', STATE, 'schema', ARGV[2])
    if position then call('HSETNX', STATE, 'x', 2 ^ 30) end  -- schema 1 did not know
    local cursor = '0'
    repeat  -- nor did it keep what is fenced
        local found = call('HSCAN', STATE, cursor, 'COUNT', CHUNK)
        cursor = found[1]
        for i = 1, #found[2], 2 do
            local kind, name = string.match(found[2][i], '^([ah]):(.*)$')
            local packed = kind and unpacked(found[2][i + 1])
            if kind == 'a' then
                lib.fence('a' .. name)
            elseif kind == 'h' and packed[2] > 0 then
                lib.fence('k' .. name)
            end
        end
    until cursor == '0'
end
return {call('HGET', STATE, 'uid'), lib.number_of('schema'), ''}
