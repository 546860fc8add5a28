-- Runs one command on a key of a space, which needs no script but must not be about another space.
-- KEYS: those of common.lua, then the key.  ARGV: the command, and what follows the key.

return call(ARGV[1], KEYS[5], unpack(ARGV, 2))
