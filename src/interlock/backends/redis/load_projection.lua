-- What is kept of a projection.
-- KEYS: those of common.lua.  ARGV: 1 name.  Answers {position, body}, or nothing.

return library().field('v:' .. ARGV[1]) or false
