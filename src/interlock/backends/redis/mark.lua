-- Writes what is there already.  WAIT is about what its own connection wrote (older servers wait for
-- everything): whoever answers for what another connection wrote before sends this first, and then
-- waits for that, too, since replicas get everything in order.
-- KEYS: those of common.lua.

call('HSET', STATE, 'uid', UID)
return {}
