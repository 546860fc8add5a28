-- Forgets a group, with all that is pending in it.
-- KEYS: those of common.lua and groups.lua.  ARGV: 1 group.

call('UNLINK', GROUP, DEALT)
call('ZREM', GROUPS, ARGV[1])
return {}
