-- Takes values of entries away, and what is kept of folds and projections.  What is in the stream cannot be
-- changed: the positions are kept, readers leave those values out, and scrub.lua copies the log without them.
-- KEYS: those of common.lua, then that of the positions of the projections, of the positions that are being erased,
--   of the copy of the log, then for each key whose fold begins anew its list m.
-- ARGV: 1 number of keys, the keys, number of positions of entries of theirs, the positions, number of keys whose
--   folds begin anew, these keys, number of bases, for each key, position, new value or ''.
-- Answers {how many values of entries are gone, how many of folds, the names of the projections}.

local lib = library()
local PROJECTIONS, ERASING, COPY = KEYS[5], KEYS[6], KEYS[7]
local at, mine, entries, folds, since = 1, {}, 0, 0, nil
local gone, first_gone = {}, {}  -- positions; and of each key the first one
check_whole(unpack(call('HMGET', STATE, 'p', 'c')))
lib.is_erasing(0)

local function list()
    local first = at + 1
    at = at + tonumber(ARGV[at]) + 1
    return first, at - 1
end

local from, upto = list()
for i = from, upto do mine[ARGV[i]] = true end
from, upto = list()
for i = from, upto do
    local position = tonumber(ARGV[i])
    local e = lib.entry_at(position)
    since = math.min(since or position, position)
    gone[position] = true
    if e then first_gone[e.k] = math.min(first_gone[e.k] or position, position) end
    if e and mine[e.k] and e.b then
        call('ZADD', ERASING, position, position)
        entries = entries + 1
        local head = lib.field('h:' .. e.k)
        if head[3] ~= 0 and head[3] ~= 2 and head[4] == position then call('HSET', STATE, 'b:' .. e.k, '') end
        if position <= lib.number_of('ec') then  -- it was copied already
            call('UNLINK', COPY)
            call('HDEL', STATE, 'ec')
        end
    end
end
if entries > 0 then call('HINCRBY', STATE, 'ep', entries) end

local first_fold, last_fold = list()
for i = at + 1, at + 3 * tonumber(ARGV[at]), 3 do
    local key, position, body = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2] ~= '' and ARGV[i + 2]
    local base = lib.field('z:' .. key)
    since = math.min(since or position, position)
    if base and base[1] == position and base[4] ~= 'delete' and base[7] ~= body then
        base[7] = body
        call('HSET', STATE, 'z:' .. key, pack(base))
        entries = entries + 1
        local head = lib.field('h:' .. key)
        if head[3] ~= 0 and head[3] ~= 2 and head[4] == position then call('HSET', STATE, 'b:' .. key, body or '') end
    end
end

-- The fold of a merged key begins anew if it includes what is gone: its list holds again what the log has
-- since then.  Otherwise the list loses what is gone.
for i = first_fold, last_fold do
    local key, items, fold = ARGV[i], {}, false
    local list_key = KEYS[8 + i - first_fold]
    local head, base = lib.field('h:' .. key), lib.field('z:' .. key)
    local before = lib.field('f:' .. key) or {0, false}
    if head and head[3] == 2 and (first_gone[key] or 0) > before[1] then
        local listed = call('LRANGE', list_key, 0, -1)
        lib.check_list(key, head, before, #listed)
        for n = #listed, 1, -1 do
            local position = tonumber(string.sub(listed[n], 1, string.find(listed[n], ':', 1, true) - 1))
            if not gone[position] then items[#items + 1] = listed[n] end
        end
    elseif head and head[3] == 2 then
        for version = head[1], 1, -1 do
            if base and version == base[2] then
                fold = {base[1], base[4] == 'append' and base[7]}
                break
            end
            local e = lib.entry_at(lib.position_of(key, version, head[1]))
            if e.c == 'delete' then
                fold = {e.p, false}
                break
            end
            if e.c == 'append' and e.b and not gone[e.p] then items[#items + 1] = text(e.p) .. ':' .. e.b end
        end
        if before[2] and not (fold and fold[2] == before[2]) then folds = folds + 1 end
        if fold then call('HSET', STATE, 'f:' .. key, pack(fold)) else call('HDEL', STATE, 'f:' .. key) end
    end
    if head and head[3] == 2 then
        call('UNLINK', list_key)
        for n = #items, 1, -1 do call('RPUSH', list_key, items[n]) end
        head[7] = #items
    end
    if head then
        head[2] = head[2] + 1  -- what was read before is not what the key is now
        call('HSET', STATE, 'h:' .. key, pack(head))
    end
end

local names = since and call('ZRANGEBYSCORE', PROJECTIONS, since, '+inf') or {}
for _, name in ipairs(names) do
    call('HDEL', STATE, 'v:' .. name)
    call('ZREM', PROJECTIONS, name)
end
call('HINCRBY', STATE, 'e', 1)
return {entries, folds, names}
