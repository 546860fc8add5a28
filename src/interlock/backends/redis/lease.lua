-- Takes the lease of a key, renews it, or takes it away.
-- KEYS: those of common.lua, then the list m of the key.
-- ARGV: 1 key, 2 key of its queue, 3 name of the request, 4 agent, 5 incarnation, 6 ttl in microseconds,
--   7 epoch (above 0: renew), 8 ticket or 0, 9 whether to take it away (1 or 0).
-- Rows: grant (live: 1 granted; agent and time: who has it for how long) or replaced (version: the
--   incarnation in force), record, now.

local lib = library()
local key, name, agent = ARGV[1], ARGV[3], ARGV[4]
local now, ttl, epoch = clock(), tonumber(ARGV[6]), tonumber(ARGV[7])
local current = (lib.field('a:' .. agent) or {0})[1]
local lease = lib.field('l:' .. key)
local what, version, granted, holder, left = 'grant', false, 0, false, 0

-- Raises the epoch of the key and keeps a lease; a reclaimed one stands at epoch 0 and has expired already.
local function set_lease(reclaimed, expires)
    local head = lib.field('h:' .. key) or {0, 0, 0, 0, 0, ''}
    head[2] = head[2] + 1
    call('HSET', STATE, 'h:' .. key, pack(head), 'l:' .. key,
        pack({reclaimed and 0 or head[2], agent, name, now, expires}))
end

if current ~= tonumber(ARGV[5]) then
    what, version = 'replaced', current
elseif epoch > 0 then  -- a renewal; an expired lease that nobody took may go on
    if lease and lease[1] == epoch then
        lease[4], lease[5] = now, now + ttl
        call('HSET', STATE, 'l:' .. key, pack(lease))
        granted = 1
    end
elseif lease and lease[3] == name then  -- sent twice
    granted = ARGV[9] == '1' and 0 or 1
elseif ARGV[9] == '1' then
    set_lease(true, now)
elseif lease and alive(lease[4], lease[5], now) then
    holder, left = lease[2], lease[5] - now
else
    local first = lib.queue(ARGV[2], now)[1]
    if first and first[1] ~= tonumber(ARGV[8]) then
        holder = first[2][2]
    else
        set_lease(false, now + ttl)
        if ARGV[8] ~= '0' then lib.drop_ticket(tonumber(ARGV[8])) end
        granted = 1
    end
end
return {
    {what, 0, key, false, false, false, version, false, holder, left, false, granted, false},
    lib.record('record', 0, key),
    lib.now_row(now),
}
