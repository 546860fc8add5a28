-- Takes the leases of keys, all or none, renews one, or takes one away.
-- KEYS: those of common.lua, then the list m of each key.
-- ARGV: 1 name of the request, 2 agent, 3 incarnation, 4 ttl in microseconds, 5 epoch (above 0: renew),
--   6 ticket or 0, 7 whether to take it away (1 or 0), then the keys.
-- Rows: grant (live: 1 granted; key, agent and time: what, who has it for how long) or replaced (version: the
--   incarnation in force), a record for each key, now.

local lib = library()
local name, agent, ticket = ARGV[1], ARGV[2], tonumber(ARGV[6])
local now, ttl, epoch, reclaims = clock(), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7] == '1'
local keys, leases, mine = {}, {}, 0
for i = 8, #ARGV do
    keys[i - 7] = ARGV[i]
    leases[i - 7] = lib.field('l:' .. ARGV[i]) or false
    if leases[i - 7] and leases[i - 7][3] == name then mine = mine + 1 end
end
local current = (lib.field('a:' .. agent) or {0})[1]
local what, version, granted, of, holder, left = 'grant', false, 0, keys[1], false, 0

-- Raises the epoch of a key and keeps a lease; a reclaimed one stands at epoch 0 and has expired already.
local function set_lease(key, expires)
    local head = lib.field('h:' .. key) or {0, 0, 0, 0, 0, ''}
    head[2] = head[2] + 1
    lib.fence('k' .. key)
    call('HSET', STATE, 'h:' .. key, pack(head), 'l:' .. key,
        pack({reclaims and 0 or head[2], agent, name, now, expires}))
end

-- Whether somebody has one of the leases, or waits for one before the asker.
local function is_held()
    for i, key in ipairs(keys) do
        local lease = leases[i]
        if lease and lease[3] ~= name and alive(lease[4], lease[5], now) then
            of, holder, left = key, lease[2], lease[5] - now
            return true
        end
        local first = lib.queue(QUEUE .. key, now, 1)[1]
        if first and first[1] ~= ticket then
            of, holder = key, first[2][2]
            return true
        end
    end
    return false
end

if current ~= tonumber(ARGV[3]) then
    what, version = 'replaced', current
elseif epoch > 0 then  -- a renewal; an expired lease that nobody took may go on
    local lease = leases[1]
    if lease and lease[1] == epoch then
        lease[4], lease[5] = now, now + ttl
        call('HSET', STATE, 'l:' .. keys[1], pack(lease))
        granted = 1
    end
elseif mine == #keys then  -- sent twice
    granted = reclaims and 0 or 1
elseif reclaims then
    set_lease(keys[1], now)
else
    -- Sent twice, and one of the others was lost meanwhile: none of them is held.
    for i, key in ipairs(keys) do
        if leases[i] and leases[i][3] == name then call('HDEL', STATE, 'l:' .. key) end
    end
    if not is_held() then
        for _, key in ipairs(keys) do set_lease(key, now + ttl) end
        if ticket > 0 then lib.drop_ticket(ticket) end
        granted = 1
    end
end
local rows = {{what, 0, of, false, false, false, version, false, holder, left, false, granted, false}}
for i, key in ipairs(keys) do rows[i + 1] = lib.record('record', i - 1, key) end
rows[#rows + 1] = lib.now_row(now)
return rows
