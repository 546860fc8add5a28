-- Changes fields of a hash if all of it still is what the writer saw, in one atomic step.  Keys: see
-- receipts.lua.
--
-- ARGV[3]  number of fields that must be there and no others (0: nothing must be there); then for each
--          its name and its text
-- then     number of fields to set, and for each its name and its text
-- then     number of fields to remove, and their names
--
-- Returns {'done'}, {'changed', names and texts that are there}, {'type', the type}: see replace.lua.
if was_applied() then
    return {'done'}
end
local other = other_type('hash')
if other then
    return {'type', other}
end
local count, at = tonumber(ARGV[3]), 4
local same = redis.call('HLEN', key) == count
for _ = 1, count do
    same = same and redis.call('HGET', key, ARGV[at]) == ARGV[at + 1]
    at = at + 2
end
if not same then
    return {'changed', redis.call('HGETALL', key)}
end
note_applied()
for _ = 1, tonumber(ARGV[at]) do
    redis.call('HSET', key, ARGV[at + 1], ARGV[at + 2])
    at = at + 2
end
at = at + 1
for i = 1, tonumber(ARGV[at]) do
    redis.call('HDEL', key, ARGV[at + i])
end
return {'done'}
