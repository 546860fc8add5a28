-- At most so many entries after a position: of one key, of a prefix, or all.
-- KEYS: those of common.lua.
-- ARGV: 1 position (-1: from the oldest that is kept), 2 limit, 3 key or '', 4 prefix or '', 5 and 6 as in load.lua.
-- Answers {where the log ends, the position that this is complete up to, entries, where it is cut}, the
-- second of them -1 where the commit that the caller knows of is not in the log; an entry is
-- position, key, version, epoch, kind, body, agent, time, operation id, reads.  Looks at a limited number of
-- entries, so that a long log does not hold up the server.

local lib = library()
local MOST = 5000
local after, limit, key, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local last, floor, entries, looked = lib.number_of('p'), lib.number_of('c'), {}, 0
if is_lost(ARGV[5], ARGV[6]) then return {last, -1, {}, floor} end
if after >= 0 and after < floor then return {last, after, {}, floor} end
after = math.max(after, floor)
local reached = after

local function take(e)
    entries[#entries + 1] = {e.p, e.k, e.v, e.e, e.c, e.b, e.a, e.t, e.o, e.r}
end

if after >= last then
    return {last, after, entries, floor}
elseif key ~= '' then
    local version, versions = lib.version_after(key, after)
    while version <= versions and #entries < limit do
        local number = math.floor((version - 1) / BLOCK)
        local block = lib.block(key, number, versions)
        for i = version - number * BLOCK, #block do
            if #entries < limit then take(lib.entry_at(block[i])) end
        end
        version = (number + 1) * BLOCK + 1
    end
    reached = #entries == limit and entries[limit][1] or last
else
    while #entries < limit and looked < MOST and reached < last do
        local count = prefix == '' and math.min(limit - #entries, CHUNK) or CHUNK
        for _, found in ipairs(call('XRANGE', LOG, reached + 1, '+', 'COUNT', count)) do
            reached = tonumber(string.sub(found[1], 1, -3))
            looked = looked + 1
            if prefix == '' or string.sub(found[2][2], 1, #prefix) == prefix then
                take(lib.entry(found))
                if #entries == limit then break end
            end
        end
    end
end
return {last, reached, entries, floor}
