-- Drops a space with all that it holds, and remembers that it was dropped.
-- KEYS: those of common.lua.  ARGV: 1 whether only if its import is not finished (1 or 0).

if ARGV[1] == '1' and call('HEXISTS', STATE, 'importing') == 0 then return {} end
for _, name in ipairs(call('ZRANGE', STATE .. ':groups', 0, -1)) do
    call('UNLINK', STATE .. ':g:' .. name, STATE .. ':d:' .. name)
end
local names = call('ZRANGE', NAMES, 0, -1)
for _, key in ipairs(names) do call('UNLINK', STATE .. ':m:' .. key) end
call('UNLINK', STATE, LOG, NAMES, QUEUES, STATE .. ':groups', STATE .. ':projections', STATE .. ':refusals',
    STATE .. ':fenced', STATE .. ':expiring')
call('SADD', STATE .. ':dropped', UID)
return {}
