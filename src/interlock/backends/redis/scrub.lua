-- Copies the log without the values that are being erased, some entries at a time, and puts the copy in its place.
-- (A stream only marks what is deleted from it: its bytes would stay, in what Redis saves, too.)
-- KEYS: those of common.lua, then as 6 and 7 of redact.lua, then a name for the log that is taken out.
-- ARGV: 1 number of entries.
-- Answers {how many entries are left to be copied}.

local lib = library()
local ERASING, COPY, OLD = KEYS[5], KEYS[6], KEYS[7]
local last, cut = lib.number_of('p'), lib.number_of('c')
check_whole(last, cut)
lib.is_erasing(0)
if lib.number_of('ep') == 0 then return {0} end
local copied = math.max(lib.number_of('ec'), cut)
for _, found in ipairs(call('XRANGE', LOG, copied + 1, '+', 'COUNT', tonumber(ARGV[1]))) do
    local fields = found[2]
    copied = tonumber(string.sub(found[1], 1, -3))
    if lib.is_erasing(copied) then
        for i = 1, #fields, 2 do
            if fields[i] == 'b' then fields[i + 1] = '' end
        end
    end
    call('XADD', COPY, found[1], unpack(fields))
end
call('HSET', STATE, 'ec', copied)
if copied < last then return {last - copied} end
if last > cut then
    call('XTRIM', COPY, 'MINID', cut + 1)
    if call('XLEN', COPY) ~= last - cut then  -- a part of it was lost: begin again
        call('UNLINK', COPY)
        call('HDEL', STATE, 'ec')
        return {last - cut}
    end
    call('RENAME', LOG, OLD)
    call('RENAME', COPY, LOG)
    call('UNLINK', OLD)
end
call('UNLINK', ERASING, COPY)
call('HDEL', STATE, 'ep', 'ec')
call('HINCRBY', STATE, 'e', 1)
return {0}
