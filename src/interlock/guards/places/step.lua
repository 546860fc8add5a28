-- The atomic step: compares all keys, commits what is beside them, and writes them, or does nothing.
--
-- Returns {'done', the answer of the commit or false, what each write said or false}, if this operation has
-- been applied, now or before; {'changed', number of the key, what is there or false}; {'type', number, the
-- type} if it is of another kind; {'beside', the answer of a commit that was refused or made before, false}.
if kept > 0 and call('ZSCORE', receipts, ARGV[1]) then
    return {'done', false, false}
end
local at, starts = 4, {}
for i = 1, count do
    local same, there, past = check(KEYS[1 + i], at)
    if not past then
        return {'type', i, there}
    end
    if not same then
        return {'changed', i, there}
    end
    starts[i], at = at, past
end
local beside = commit_beside and commit_beside(at) or false
if beside and not (type(beside[1]) == 'table' and type(beside[1][1]) == 'number') then
    return {'beside', beside, false}
end
if kept > 0 then
    redis.replicate_commands() -- before Redis 7 a script that asks for the time must say so
    local time = call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    call('ZREMRANGEBYSCORE', receipts, '-inf', now - kept)
    call('ZADD', receipts, now, ARGV[1])
    call('PEXPIRE', receipts, kept)
end
local said
for i = 1, count do
    local answer = apply(KEYS[1 + i], starts[i])
    if answer then
        said = said or {}
        said[i] = answer
    end
end
return {'done', beside, said or false}
