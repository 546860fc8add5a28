-- Forgets what is kept of a projection.
-- KEYS: those of common.lua, then that of the positions of the projections.  ARGV: 1 name.

call('HDEL', STATE, 'v:' .. ARGV[1])
call('ZREM', KEYS[5], ARGV[1])
return {}
