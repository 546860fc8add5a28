-- Writes base rows and rows of the log into a space that is being imported, where its log ends at a position; all
-- or none.
-- KEYS: those of common.lua.
-- ARGV: 1 position, 2 number of base rows, then the base rows and the others: position, key, version, epoch, kind,
--   body or '', agent, time, operation id, reads or '', when the value expires or 0.
-- Answers where the log ends then.

local LIVE = {put = 1, append = 2, fold = 2, delete = 0}
local FIELDS = 11
local lib = library()
local floor = lib.number_of('floor')
local last = math.max(lib.number_of('p'), floor)
local rows_at = 2 + FIELDS * tonumber(ARGV[2])
if tonumber(ARGV[1]) ~= last or call('HEXISTS', STATE, 'importing') == 0 then return last end

local heads, ops, open, bodies, changes = {}, {}, {}, {}, {}

local function head_of(key)
    if not heads[key] then heads[key] = lib.field('h:' .. key) or {0, 0, 0} end
    return heads[key]
end

local function change(field, value)
    changes[#changes + 1], changes[#changes + 2] = field, value
    if #changes >= CHUNK then
        call('HSET', STATE, unpack(changes))
        changes = {}
    end
end

local function row(at)
    return {
        p = tonumber(ARGV[at + 1]), k = ARGV[at + 2], v = tonumber(ARGV[at + 3]), e = tonumber(ARGV[at + 4]),
        c = ARGV[at + 5], b = ARGV[at + 6], a = ARGV[at + 7], t = tonumber(ARGV[at + 8]), stamp = ARGV[at + 8],
        o = ARGV[at + 9], r = ARGV[at + 10], x = tonumber(ARGV[at + 11]),
    }
end

-- Does each follow what is there?
local versions, expected = {}, last
for at = 2, rows_at - FIELDS, FIELDS do
    local position = tonumber(ARGV[at + 1])
    if last > floor or position < 1 or position > floor then return last end
end
for at = rows_at, #ARGV - FIELDS, FIELDS do
    local key, version = ARGV[at + 2], tonumber(ARGV[at + 3])
    expected = expected + 1
    if tonumber(ARGV[at + 1]) ~= expected or version ~= (versions[key] or head_of(key)[1]) + 1 then
        return last
    end
    versions[key] = version
end

local function live_of(e)
    return e.c == 'put' and e.x > 0 and e.x or LIVE[e.c]
end

-- What a row changes but the log.
local function keep(e, head)
    lib.keep_expiry(e.k, head[3], head_of(e.k)[3])
    heads[e.k] = head
    if e.v == 1 or e.p <= floor then call('ZADD', NAMES, 0, e.k) end
    if e.k == '$rules' then change('r', e.v) end
    bodies[e.k] = e.c == 'put' and e.b
    local length = math.max(#e.b, #e.r)
    if length > LONG and length > lib.number_of('x') then call('HSET', STATE, 'x', length) end
end

for at = 2, rows_at - FIELDS, FIELDS do
    local e = row(at)
    local live = live_of(e)
    keep(e, {e.v, e.e, live, e.p, e.t, e.a, live == 2 and 0 or nil})
    local kind = e.c == 'fold' and 'append' or e.c
    change('z:' .. e.k, pack({e.p, e.v, e.e, kind, e.t, e.a, live > 0 and e.b ~= '' and e.b, e.x}))
    if live == 2 then change('f:' .. e.k, pack({e.p, e.b ~= '' and e.b})) end
    -- Of the versions before it only the number is known.
    open[e.k] = string.rep(e.p .. ' ', e.v % BLOCK)
    if e.p == floor then change('d', e.stamp) end
    if e.t >= lib.number_of('t') then call('HSET', STATE, 't', e.stamp) end
end
if floor > 0 then
    change('c', floor)
    if last == floor then change('p', floor) end
end

for at = rows_at, #ARGV - FIELDS, FIELDS do
    local e = row(at)
    local before, live, list = head_of(e.k), live_of(e), lib.list_of('m', e.k)
    local meta = e.v .. ' ' .. e.e .. ' ' .. e.c .. ' ' .. e.stamp .. ' ' .. e.a
    local more = {}
    if e.r ~= '' then more = {'r', e.r} end
    if e.x > 0 then more[#more + 1], more[#more + 2] = 'x', text(e.x) end
    call('XADD', LOG, e.p .. '-0', 'k', e.k, 'o', e.o, 'm', meta, 'b', e.b, unpack(more))
    local count = live == 2 and call('RPUSH', list, e.p .. ':' .. e.b) or nil
    if live == 0 and before[3] == 2 then
        change('f:' .. e.k, pack({e.p, false}))
        call('UNLINK', list)
    end
    keep(e, {e.v, e.e, live, e.p, e.t, e.a, count})
    local op = ops[e.o] or lib.field('o:' .. e.o) or {e.p, 0}
    ops[e.o] = {op[1], op[2] + 1}
    local positions = open[e.k] or call('HGET', STATE, 'i:' .. e.k) or ''
    open[e.k] = positions == '' and text(e.p) or string.gsub(positions, ' $', '') .. ' ' .. e.p
    if e.v % BLOCK == 0 then
        change('j:' .. e.v / BLOCK - 1 .. ':' .. e.k, open[e.k])
        open[e.k] = ''
    end
    last = e.p
    change('t', e.stamp)
end
for key, positions in pairs(open) do
    change('i:' .. key, positions)
    change('h:' .. key, pack(heads[key]))
end
for key, body in pairs(bodies) do
    if body then change('b:' .. key, body) else call('HDEL', STATE, 'b:' .. key) end
end
for op, done in pairs(ops) do change('o:' .. op, pack(done)) end
if last > floor then change('p', last) end
if changes[1] then call('HSET', STATE, unpack(changes)) end
return last
