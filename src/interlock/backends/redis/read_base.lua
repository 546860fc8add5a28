-- Keys after one, in order, each with its last entry up to a position that is not below the cut.
-- KEYS: those of common.lua.  ARGV: 1 key or '', 2 how many, at most, 3 position.
-- Answers the position that the log is cut up to, then rows: position, key, version, epoch, kind, body, agent, time,
-- '', false, when the value expires or 0.
-- A merged key has no body, but where the cut is its last entry: that of a fold.

local PAGE = 1000
local lib = library()
local floor, upto, limit = lib.number_of('c'), tonumber(ARGV[3]), tonumber(ARGV[2])
local rows, from = {}, ARGV[1] == '' and '-' or '(' .. ARGV[1]
if upto < floor then return {floor, rows} end

local function row_of(key)
    local version, versions = lib.version_after(key, upto)
    version = version - 1
    if version == 0 then return end
    local cut = lib.field('z:' .. key)
    if cut and cut[2] == version then
        local kind = cut[4] == 'append' and 'fold' or cut[4]
        return {cut[1], key, cut[2], cut[3], kind, cut[7], cut[6], cut[5], '', false, cut[8] or 0}
    end
    local e = lib.entry_at(lib.position_of(key, version, versions))
    return {e.p, key, e.v, e.e, e.c, e.c ~= 'append' and e.b, e.a, e.t, '', false, e.x}
end

repeat
    local found = call('ZRANGEBYLEX', NAMES, from, '+', 'LIMIT', 0, PAGE)
    for _, key in ipairs(found) do
        local row = row_of(key)
        if row then
            rows[#rows + 1] = row
            if #rows == limit then return {floor, rows} end
        end
    end
    from = '(' .. (found[#found] or '')
until #found < PAGE
return {floor, rows}
