-- Keeps a fold as of a position, never over a later one, where the rules are still those given, and nothing was
-- erased since.
-- KEYS: those of common.lua, then the list m of the key.
-- ARGV: 1 key, 2 position, 3 body, 4 version of the rules, 5 number of steps that had erased values.

local lib = library()
local same = lib.number_of('r') == tonumber(ARGV[4]) and lib.number_of('e') == tonumber(ARGV[5])
if same then lib.keep_fold(ARGV[1], tonumber(ARGV[2]), ARGV[3]) end
return {}
