-- The atomic step: compares all keys, commits what is beside them, and writes them, or does nothing.
--
-- Returns {'done', the answer of the commit or false, what each write said}, if this operation has been
-- applied, now or before; {'changed', number of the key, what is there or false}; {'type', number, the type}
-- if it is of another kind; {'beside', the answer of a commit that was refused or made before}.
if was_applied() then
    return {'done', false, {}}
end
local at, starts = 4, {}
for i = 1, count do
    local key = KEYS[1 + i]
    local other = other_type(key, wanted)
    if other then
        return {'type', i, other}
    end
    local same, there, past = check(key, at)
    if not same then
        return {'changed', i, there}
    end
    starts[i], at = at, past
end
local beside = commit_beside and commit_beside(at) or false
if beside and not (type(beside[1]) == 'table' and type(beside[1][1]) == 'number') then
    return {'beside', beside}
end
note_applied()
local said = {}
for i = 1, count do said[i] = apply(KEYS[1 + i], starts[i]) or 0 end
return {'done', beside, said}
