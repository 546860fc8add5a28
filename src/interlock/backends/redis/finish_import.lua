-- Writes the parts of a space that was imported up to a position, and opens it to others.
-- KEYS: those of common.lua.
-- ARGV: 1 position, then five times a number of rows and the rows: key, epoch; agent, incarnation; group, prefix,
--   cursor; group, position, key, consumer, deliveries (of each group in the order of positions); name,
--   position, body.
-- Answers 1; 0 where the log ends elsewhere.

local NUL, NONE = '\0', '0000000000000000'
local lib = library()
local floor = lib.number_of('floor')
if tonumber(ARGV[1]) ~= math.max(lib.number_of('p'), floor) then return 0 end
if call('HEXISTS', STATE, 'importing') == 0 then return 1 end  -- finished by another sending
check_whole(call('HGET', STATE, 'p'), call('HGET', STATE, 'c'))

local at = 1
local function each(width, fn)
    local rows = tonumber(ARGV[at + 1])
    at = at + 1
    for _ = 1, rows do
        fn(unpack(ARGV, at + 1, at + width))
        at = at + width
    end
end

each(2, function(key, epoch)
    local head = lib.field('h:' .. key) or {0, 0, 0, 0, 0, ''}
    head[2] = tonumber(epoch)
    call('HSET', STATE, 'h:' .. key, pack(head))
    lib.fence('k' .. key)
end)
each(2, function(agent, incarnation)
    call('HSET', STATE, 'a:' .. agent, pack({tonumber(incarnation), ''}))
    lib.fence('a' .. agent)
end)
each(3, function(name, prefix, cursor)
    call('HSET', lib.list_of('g', name), 'prefix', prefix, 'cursor', cursor)
    call('ZADD', STATE .. ':groups', 0, name)
end)
-- See groups.lua.  The consumers are dead: others may claim what is pending with them.
each(5, function(name, position, key, consumer, deliveries)
    local group, dealt = lib.list_of('g', name), lib.list_of('d', name)
    local place = string.format('%016.0f', tonumber(position))
    if call('HSETNX', group, 'c:' .. consumer, pack({0, 0, {}})) == 1 then
        call('ZADD', dealt, 0, 'c' .. consumer)
    end
    if call('HSETNX', group, 'k:' .. key, pack({consumer, NONE})) == 1 then
        call('ZADD', dealt, 0, 'h' .. consumer .. NUL .. '0' .. key, 0, 'w' .. consumer .. NUL .. place)
    end
    call('ZADD', dealt, 0, 'k' .. key .. NUL .. place, 0, 'p' .. place)
    call('HSET', group, 'e:' .. place, pack({key, '', tonumber(deliveries)}))
    call('HINCRBY', group, 'n:' .. consumer, 1)
end)
each(3, function(name, position, body)
    call('HSET', STATE, 'v:' .. name, pack({tonumber(position), body}))
    call('ZADD', STATE .. ':projections', position, name)
end)
call('HDEL', STATE, 'importing', 'floor')
return 1
