-- What every script of a guard begins with: the operations that were applied in the last minutes, so that
-- one whose answer was lost is not applied twice.
--
-- KEYS[1]  the key, which is the application's
-- KEYS[2]  interlock:receipts:<key>: sorted set of operation ids, by the server's time in milliseconds.
--          The key itself where no receipts are kept
-- ARGV[1]  operation id
-- ARGV[2]  milliseconds that receipts are kept (0: none are)
local key, receipts = KEYS[1], KEYS[2]
local kept = tonumber(ARGV[2])

local function was_applied()
    return kept > 0 and redis.call('ZSCORE', receipts, ARGV[1])
end

local function note_applied()
    if kept == 0 then
        return
    end
    redis.replicate_commands() -- before Redis 7 a script that asks for the time must say so
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    redis.call('ZREMRANGEBYSCORE', receipts, '-inf', now - kept)
    redis.call('ZADD', receipts, now, ARGV[1])
    redis.call('PEXPIRE', receipts, kept)
end

local function other_type(wanted)
    local kind = redis.call('TYPE', key).ok
    return kind ~= 'none' and kind ~= wanted and kind
end
