-- What is kept of a projection.
-- KEYS: those of common.lua.  ARGV: 1 name.  Answers {position, body}, or nothing.

local kept = library().field('v:' .. ARGV[1])
local positions = STATE .. ':projections'
if kept and not call('ZSCORE', positions, ARGV[1]) then missing(positions, 'does not name ' .. ARGV[1]) end
return kept or false
