-- Hashes.  Of ARGV for each key:
--   number of fields that must be there and no others (0: nothing must be there); then for each its name and
--   its text
--   number of fields to set, and for each its name and its text
--   number of fields to remove, and their names

local function check(key, at)
    local other = other_type(key, 'hash')
    if other then
        return false, other
    end
    local expected, same = tonumber(ARGV[at]), true
    same = call('HLEN', key) == expected
    at = at + 1
    for _ = 1, expected do
        same = same and call('HGET', key, ARGV[at]) == ARGV[at + 1]
        at = at + 2
    end
    at = at + 1 + 2 * ARGV[at]
    return same, not same and call('HGETALL', key), at + 1 + ARGV[at]
end

local function apply(key, at)
    at = at + 1 + 2 * ARGV[at]
    for i = at + 1, at + 2 * ARGV[at], 2 do
        call('HSET', key, ARGV[i], ARGV[i + 1])
    end
    at = at + 1 + 2 * ARGV[at]
    for i = at + 1, at + ARGV[at] do
        call('HDEL', key, ARGV[i])
    end
end
