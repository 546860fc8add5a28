-- Entries of the log after a position: of one key, or of all; it ends early where the values are many bytes.
-- (Those of all keys are read off the stream as it is where they are small; see calls.py.)
-- KEYS: those of common.lua.
-- ARGV: 1 position (-1: from the oldest that is kept), 2 limit (0: no entries), 3 key, or '' for all, 4 and 5
--   as 2 and 3 of load.lua, 6 bytes, 7 number of entries that are read off the stream.
-- Answers {where the log ends, where it is cut, whether the commit that the caller knows of is not in the
-- log, entries, the position up to which they are complete, the length of the longest value of the log, how many
-- steps have erased values, positions after the first that are erased but have their values in the stream};
-- an entry is position, key, version, epoch, kind, body, agent, time, operation id, reads, when
-- the value expires or 0.

local MOST = 200  -- entries of one call
local lib = library()
local after, limit, key = tonumber(ARGV[1]), math.min(tonumber(ARGV[2]), MOST), ARGV[3]
local last, floor, entries, bytes = lib.number_of('p'), lib.number_of('c'), {}, tonumber(ARGV[6])
local reached, longest = math.max(after, last), math.max(LONG, lib.number_of('x'))
local lost = is_lost(ARGV[4], ARGV[5]) and 1 or 0
local erasures, erasing = lib.number_of('e'), {}
if lib.number_of('ep') > 0 then
    erasing = call('ZRANGEBYSCORE', STATE .. ':erasing', '(' .. after, '+inf', 'LIMIT', 0, tonumber(ARGV[7]))
end
if lost == 0 then check_whole(last, floor) end
if lost == 1 or limit == 0 or after >= last or after >= 0 and after < floor then
    return {last, floor, lost, entries, reached, longest, erasures, erasing}
end

-- Adds an entry, and says whether it is the last one.
local function add(e)
    entries[#entries + 1] = {e.p, e.k, e.v, e.e, e.c, e.b, e.a, e.t, e.o, e.r, e.x}
    bytes = bytes - #(e.b or '') - #(e.r or '')
    if #entries < limit and bytes > 0 then return false end
    reached = e.p
    return true
end

local function all_keys()
    for position = math.max(after, floor) + 1, last, 10 do
        for _, found in ipairs(call('XRANGE', LOG, position, math.min(position + 9, last))) do
            if add(lib.entry(found)) then return end
        end
    end
end

local function one_key()
    local version, versions = lib.version_after(key, math.max(after, floor))
    while version <= versions do
        local number = math.floor((version - 1) / BLOCK)
        local block = lib.block(key, number, versions)
        for i = version - number * BLOCK, #block do
            if add(lib.entry_at(block[i])) then return end
        end
        version = (number + 1) * BLOCK + 1
    end
end

if key == '' then all_keys() else one_key() end
return {last, floor, lost, entries, reached, longest, erasures, erasing}
