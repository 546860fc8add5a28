-- Replaces a string if it still is what the writer saw, in one atomic step.  Keys: see receipts.lua.
--
-- ARGV[3]  '=' ARGV[4] is what must be there; '-' nothing must be there
-- ARGV[5]  'set' to ARGV[6], whatever time it has left to live; or 'del'
--
-- Returns {'done'} if this operation has replaced it, now or before; {'changed', what is there or false};
-- {'type', the type} if it is no string.
if was_applied() then
    return {'done'}
end
local other = other_type('string')
if other then
    return {'type', other}
end
local there = redis.call('GET', key)
local expected = ARGV[3] == '=' and ARGV[4]
if there ~= expected then
    return {'changed', there}
end
note_applied()
if ARGV[5] == 'set' then
    redis.call('SET', key, ARGV[6], 'KEEPTTL')
else
    redis.call('DEL', key)
end
return {'done'}
