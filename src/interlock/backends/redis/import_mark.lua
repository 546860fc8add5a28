-- How far a space is that is being imported.
-- KEYS: those of common.lua.  Answers {where its log ends, base rows apart, where it is cut}.

local lib = library()
local floor = math.max(lib.number_of('floor'), lib.number_of('c'))
return {math.max(lib.number_of('p'), floor), floor}
