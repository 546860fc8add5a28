-- What every script of a guard begins with: the operations that were applied in the last minutes, so that
-- one whose answer was lost is not applied twice.  A script writes one key or several, all or none.
--
-- KEYS[1]   interlock:receipts:<first key>: sorted set of operation ids, by the server's time in
--           milliseconds.  The first key itself where no receipts are kept
-- KEYS[2..] the keys, which are the application's; then those of a commit beside them, if there is one
-- ARGV[1]   operation id
-- ARGV[2]   milliseconds that receipts are kept (0: none are)
-- ARGV[3]   number of keys; then for each of them what the script of its kind says (`string.lua` and its
--           like, which defines `check` and `apply`); then the arguments of the commit beside them
local call, receipts, kept, count = redis.call, KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function other_type(key, wanted)
    local kind = call('TYPE', key).ok
    return kind ~= 'none' and kind ~= wanted and kind
end
