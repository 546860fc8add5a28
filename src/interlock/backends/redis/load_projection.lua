-- What is kept of a projection.
-- KEYS: those of common.lua.  ARGV: 1 name.  Answers {position, body, number of steps that have erased values}, or nothing.

local lib = library()
local kept = lib.field('v:' .. ARGV[1])
local positions = STATE .. ':projections'
if kept and not call('ZSCORE', positions, ARGV[1]) then missing(positions, 'does not name ' .. ARGV[1]) end
return kept and {kept[1], kept[2], lib.number_of('e')}
