-- Replaces a string if it still is what the writer saw, in one atomic step.
--
-- KEYS[1]  the key: a string, which is the application's
-- KEYS[2]  interlock:receipts:<key>: sorted set, the operations that were applied in the last minutes, by
--          the server's time in milliseconds; so that one whose answer was lost is not applied twice.
--          The key itself where no receipts are kept
-- ARGV[1]  operation id
-- ARGV[2]  milliseconds that receipts are kept (0: none are)
-- ARGV[3]  '=' ARGV[4] is what must be there; '-' nothing must be there
-- ARGV[5]  'set' to ARGV[6], whatever time it has left to live; or 'del'
--
-- Returns {'done'} if this operation has replaced it, now or before; {'changed', what is there or false};
-- {'type', the type} if it is no string.
local key, receipts = KEYS[1], KEYS[2]
local kept = tonumber(ARGV[2])
if kept > 0 and redis.call('ZSCORE', receipts, ARGV[1]) then
    return {'done'}
end
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'string' then
    return {'type', kind}
end
local there = redis.call('GET', key)
local expected = ARGV[3] == '=' and ARGV[4]
if there ~= expected then
    return {'changed', there}
end
if kept > 0 then
    redis.replicate_commands() -- before Redis 7 a script that asks for the time must say so
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZREMRANGEBYSCORE', receipts, '-inf', now - kept)
    redis.call('ZADD', receipts, now, ARGV[1])
    redis.call('PEXPIRE', receipts, kept)
end
if ARGV[5] == 'set' then
    redis.call('SET', key, ARGV[6], 'KEEPTTL')
else
    redis.call('DEL', key)
end
return {'done'}
