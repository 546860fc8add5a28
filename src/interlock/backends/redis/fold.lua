-- Keeps a fold as of a position, never over a later one, where the rules are still those given.
-- KEYS: those of common.lua, then the list m of the key.
-- ARGV: 1 key, 2 position, 3 body, 4 version of the rules.

local lib = library()
if lib.number_of('r') == tonumber(ARGV[4]) then lib.keep_fold(ARGV[1], tonumber(ARGV[2]), ARGV[3]) end
return {}
