-- Lists.  Of ARGV for each key:
--   '=' the items that follow must be there and no others, '*' whatever is there
--   number of these items, and each
--   'push' the next one at the end; 'del' all; or 'keep' it as it is
--   the new item

local function check(key, at)
    local other = other_type(key, 'list')
    if other then
        return false, other
    end
    local expected, same = tonumber(ARGV[at + 1]), true
    local there = ARGV[at] == '=' and call('LRANGE', key, 0, -1)
    if there then
        same = #there == expected
        for i = 1, expected do same = same and there[i] == ARGV[at + 1 + i] end
    end
    return same, there, at + expected + 4
end

local function apply(key, at)
    at = at + 2 + ARGV[at + 1]
    if ARGV[at] == 'push' then
        return call('RPUSH', key, ARGV[at + 1])
    elseif ARGV[at] == 'del' then
        call('DEL', key)
    end
end
