-- Keys whose values have expired, but not those that somebody has the lease of; the first first.
-- KEYS: those of common.lua.  ARGV: 1 how many, at most.
-- Rows: key, version, epoch, agent, time, position.

local PAGE = 1000
local lib = library()
local rows, limit, now, at = {}, tonumber(ARGV[1]), clock(), 0
repeat
    local found = call('ZRANGEBYSCORE', STATE .. ':expiring', '-inf', now, 'LIMIT', at, PAGE)
    for _, key in ipairs(found) do
        local head, lease = lib.field('h:' .. key), lib.field('l:' .. key)
        if head and as_of(head[3], now) < 0 and not (lease and alive(lease[4], lease[5], now)) then
            rows[#rows + 1] = {key, head[1], head[2], head[6], head[5], head[4]}
            if #rows == limit then return rows end
        end
    end
    at = at + #found
until #found < PAGE
return rows
