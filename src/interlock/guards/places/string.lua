-- Strings.  Of ARGV for each key:
--   1  '=' the next one is what must be there; '-' nothing must be there
--   2  that
--   3  'set' to the next one, whatever time it has left to live; 'del'; or 'keep' it as it is
--   4  the new one

-- Whether what is at a key is what the writer saw, what it is, and where its arguments end (nil: it is of
-- another type, which is the second answer).
local function check(key, at)
    local there = redis.pcall('GET', key)
    if type(there) == 'table' then
        return false, (assert(other_type(key, 'string'), there.err))
    end
    return there == (ARGV[at] == '=' and ARGV[at + 1]), there, at + 4
end

local function apply(key, at)
    if ARGV[at + 2] == 'set' then
        call('SET', key, ARGV[at + 3], 'KEEPTTL')
    elseif ARGV[at + 2] == 'del' then
        call('DEL', key)
    end
end
