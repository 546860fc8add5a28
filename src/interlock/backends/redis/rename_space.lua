-- Gives a space another name: its keys others.  On one server only, where keys have no slots.
-- KEYS: those of common.lua.  ARGV: 1 the first key under the new name, 2 the unique id that it gets.
-- Answers done, or taken where there is a space of that name.

local to = ARGV[1]
if call('EXISTS', to, to .. ':log', to .. ':keys') > 0 then return 'taken' end
local function move(what)
    if call('EXISTS', STATE .. what) == 1 then call('RENAME', STATE .. what, to .. what) end
end
for _, name in ipairs(call('ZRANGE', STATE .. ':groups', 0, -1)) do
    move(':g:' .. name)
    move(':d:' .. name)
end
for _, key in ipairs(call('ZRANGE', NAMES, 0, -1)) do move(':m:' .. key) end
for _, what in ipairs({'', ':log', ':keys', ':queues', ':groups', ':projections', ':refusals', ':fenced',
    ':expiring'}) do
    move(what)
end
call('HSET', to, 'uid', ARGV[2])
call('SADD', STATE .. ':dropped', UID)
return 'done'
