-- Makes a space for an import, or finds the one that it began.  One that is there and empty is made anew: whoever
-- has it open must not write into the import.
-- KEYS: those of common.lua.
-- ARGV: 1 source, 2 position that the log is cut up to in what is brought, 3 unique id, 4 schema version.
-- Answers {unique id, ''}, or with a reason: full where it holds something, other where another import has begun.

local importing = call('HGET', STATE, 'importing')
if importing then return {uid, importing == ARGV[1] and '' or 'other'} end
local there = call('EXISTS', LOG, NAMES, STATE .. ':groups', STATE .. ':projections', STATE .. ':fenced')
if there > 0 then return {uid or '', 'full'} end
if uid then
    call('UNLINK', STATE, QUEUES, STATE .. ':refusals', STATE .. ':expiring')
    call('SADD', STATE .. ':dropped', uid)
end
call('HSET', STATE, 'uid', ARGV[3], 'schema', ARGV[4], 'importing', ARGV[1], 'floor', ARGV[2])
return {ARGV[3], ''}
