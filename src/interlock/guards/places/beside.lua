-- The commit of a space of the same server, in the same atomic step: `commit_to`, which stands before this.

local function commit_beside(at)
    local keys, arguments = {}, {}
    for i = 2 + count, #KEYS do keys[#keys + 1] = KEYS[i] end
    for i = at, #ARGV do arguments[#arguments + 1] = ARGV[i] end
    return commit_to(keys, arguments)
end
