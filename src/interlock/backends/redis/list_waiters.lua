-- Who waits in the queue of a key and in that of its lease, in their order.
-- KEYS: those of common.lua.
-- ARGV: 1 key, 2 how many, at most.
-- Rows: agent, whether for the lease (1 or 0), microseconds since the last sign of life.

local lib, now, limit = library(), clock(), tonumber(ARGV[2])
local found = {}
for for_lease, queue in pairs({[0] = ARGV[1], [1] = QUEUE .. ARGV[1]}) do
    for _, each in ipairs(lib.queue(queue, now, limit)) do
        found[#found + 1] = {each[1], {each[2][2], for_lease, now - each[2][3]}}
    end
end
table.sort(found, function(one, other) return one[1] < other[1] end)
local rows = {}
for i = 1, math.min(#found, limit) do rows[i] = found[i][2] end
return rows
