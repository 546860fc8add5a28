-- What the scripts about consumer groups share, after common.lua.  core/group.py says what is promised.
--
-- Redis's own groups (XREADGROUP, XAUTOCLAIM) deal each entry to whoever asks first and claim entries one
-- by one, so that two consumers would work on one key at once, and out of order.  Here a key with pending
-- entries has one holder, and is claimed with all of them.
--
--   KEYS[5]  interlock:{name}:groups     sorted set, the names of the groups, in the order of their bytes
--   KEYS[6]  interlock:{name}:g:<group>  hash, a group; its fields are
--              prefix, cursor            which keys it is about; what it has dealt the log up to
--              c:<consumer>              last sign of life, ttl, positions acknowledged last (packed)
--              n:<consumer>              number of entries pending with it
--              k:<key>                   of a key with pending entries: its holder, and the place up to which
--                                        they were delivered; the later ones wait (packed)
--              e:<place>                 a pending entry: key, name of the read that it was delivered by last
--                                        or '', how often it was delivered (packed)
--   KEYS[7]  interlock:{name}:d:<group>  sorted set, which finds things in their order; its members are
--              c<consumer>
--              h<consumer> NUL <d><key>  the keys that it holds; d is 1 where some of it was delivered, else 0
--              w<consumer> NUL <place>   of each of them the first entry that waits
--              k<key> NUL <place>        the pending entries of a key
--              b<name> NUL <place>       those delivered by a read
--              p<place>                  all of them
-- A place is a position of the log in 16 digits.

local lib = library()
local GROUPS, GROUP, DEALT = KEYS[5], KEYS[6], KEYS[7]
local NUL, NONE = '\0', '0000000000000000'

-- Compares what must agree: whoever writes comes by here first.
local function check_group()
    local name = string.sub(GROUP, #STATE + 4)
    local fields, listed = call('HLEN', GROUP), call('ZSCORE', GROUPS, name)
    if fields == 0 and (listed or call('EXISTS', DEALT) == 1) then
        missing(GROUP, 'is not there, but the group is')
    elseif fields > 0 and not listed then
        missing(GROUPS, 'does not name the group ' .. name)
    elseif fields > 2 and call('EXISTS', DEALT) == 0 then
        missing(DEALT, 'is not there, but the group has consumers')
    end
end

local function place(position) return string.format('%016.0f', position) end

local function place_of(member) return string.sub(member, -16) end

-- The members of DEALT that begin with a text, at most so many.
local function members(start, most)
    return call('ZRANGEBYLEX', DEALT, '[' .. start, '(' .. start .. '\255', 'LIMIT', 0, most or -1)
end

local function field(name)
    local packed = call('HGET', GROUP, name)
    return packed and unpacked(packed) or nil
end

-- Where the first entry of a key after a place is, and how many there are from there on.
local function next_of(key, after)
    local start = 'k' .. key .. NUL
    local found = call('ZRANGEBYLEX', DEALT, '(' .. start .. after, '(' .. start .. '\255', 'LIMIT', 0, 1)[1]
    return found and place_of(found)
end

local function count_of(key, after)
    local start = 'k' .. key .. NUL
    return call('ZLEXCOUNT', DEALT, '(' .. start .. after, '(' .. start .. '\255')
end

local function holding(key, held)
    return 'h' .. held[1] .. NUL .. (held[2] == NONE and '0' or '1') .. key
end

-- A key has no holder any more, or (`is`) another one, or one to whom other entries were delivered.
local function hand(key, was, is)
    local waiting = next_of(key, was[2])
    call('ZREM', DEALT, holding(key, was), waiting and 'w' .. was[1] .. NUL .. waiting or '')
    if not is then return call('HDEL', GROUP, 'k:' .. key) end
    waiting = next_of(key, is[2])
    call('ZADD', DEALT, 0, holding(key, is))
    if waiting then call('ZADD', DEALT, 0, 'w' .. is[1] .. NUL .. waiting) end
    call('HSET', GROUP, 'k:' .. key, pack(is))
    if was[1] ~= is[1] then
        local count = count_of(key, NONE)
        call('HINCRBY', GROUP, 'n:' .. was[1], -count)
        call('HINCRBY', GROUP, 'n:' .. is[1], count)
    end
end
