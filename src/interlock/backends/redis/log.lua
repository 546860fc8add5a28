-- At most so many entries of one key after a position.  (Those of all keys are read off the stream; see
-- calls.py.)
-- KEYS: those of common.lua.
-- ARGV: 1 position (-1: from the oldest that is kept), 2 limit, 3 key, 4 and 5 as 2 and 3 of load.lua.
-- Answers {where the log ends, where it is cut, whether the commit that the caller knows of is not in the
-- log, entries}; an entry is position, key, version, epoch, kind, body, agent, time, operation id, reads.

local lib = library()
local after, limit, key = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local last, floor, entries = lib.number_of('p'), lib.number_of('c'), {}
local lost = is_lost(ARGV[4], ARGV[5]) and 1 or 0
if lost == 0 then check_whole(last, floor) end
if lost == 1 or key == '' or after >= last or after >= 0 and after < floor then
    return {last, floor, lost, entries}
end

local version, versions = lib.version_after(key, math.max(after, floor))
while version <= versions and #entries < limit do
    local number = math.floor((version - 1) / BLOCK)
    local block = lib.block(key, number, versions)
    for i = version - number * BLOCK, #block do
        if #entries == limit then break end
        local e = lib.entry_at(block[i])
        entries[#entries + 1] = {e.p, e.k, e.v, e.e, e.c, e.b, e.a, e.t, e.o, e.r}
    end
    version = (number + 1) * BLOCK + 1
end
return {last, floor, lost, entries}
