-- Every statement of the SQLite dialect.  `-- name:` begins one; its arguments stand in the header.
-- Tables: see schema.sql.  `first` is space * 2^40, the id before the space's first log row, and
-- `last` the greatest id that it can have; a position is `id & 0xFFFFFFFFFF`.  `now` is in
-- microseconds since 1970.  A range of keys without an end goes up to x'', which is after every text: an
-- end that may be NULL would bound no index.

-- name: opening (first, last)
-- What a step begins with: id and time of the log's end, whether there is any ticket (1), any lease
-- (2), any incarnation (4).  No row where the log is empty.
SELECT id, time, EXISTS (SELECT 1 FROM tickets) + 2 * EXISTS (SELECT 1 FROM leases)
    + 4 * EXISTS (SELECT 1 FROM agents)
FROM log WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT 1;

-- name: first_opening (space)
-- The last of these for an empty log; no row where the space was dropped.
SELECT EXISTS (SELECT 1 FROM tickets) + 2 * EXISTS (SELECT 1 FROM leases)
    + 4 * EXISTS (SELECT 1 FROM agents)
FROM spaces WHERE space = ? AND name NOT LIKE ' %';

-- name: find_space (name)
SELECT space, uid, importing FROM spaces WHERE name = ?;

-- name: log_end (first, last)
SELECT COALESCE(MAX(id), ?1) & 0xFFFFFFFFFF FROM log WHERE id > ?1 AND id <= ?2;

-- name: entries_of_op (space, op)
SELECT key, kind, version, epoch, id & 0xFFFFFFFFFF, body, COALESCE(expires, 0), time, agent
FROM log INDEXED BY log_by_op WHERE space = ? AND op = ? ORDER BY id;

-- name: head_and_op (space, key, op)
-- A head, NULLs where there is none; whether the operation id is in the log; the rules' version.
SELECT h.version, h.epoch, h.live,
    EXISTS (SELECT 1 FROM log INDEXED BY log_by_op WHERE space = ?1 AND op = ?3),
    (SELECT version FROM heads WHERE space = ?1 AND key = '$rules')
FROM (SELECT 1) LEFT JOIN heads AS h ON h.space = ?1 AND h.key = ?2;

-- name: head (space, key)
SELECT version, epoch, live FROM heads WHERE space = ? AND key = ?;

-- name: heads (keys as a JSON array, space)
SELECT h.key, h.version, h.epoch, h.live
FROM json_each(?1) AS k CROSS JOIN heads AS h ON h.space = ?2 AND h.key = k.value;

-- name: known_ops (operation ids as a JSON array, space)
-- Those that are in the log.
SELECT o.value FROM json_each(?1) AS o
WHERE EXISTS (SELECT 1 FROM log INDEXED BY log_by_op WHERE space = ?2 AND op = o.value);

-- name: records (keys as a JSON array, space)
-- One row a key in the order asked, absent keys with NULLs, all of one moment.
SELECT k.value, l.body, h.version, h.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF, h.live
FROM json_each(?1) AS k
LEFT JOIN heads AS h ON h.space = ?2 AND h.key = k.value
LEFT JOIN log AS l ON l.id = h.entry
ORDER BY k.id;

-- name: record (space, key)
SELECT ?2, l.body, h.version, h.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF, h.live
FROM (SELECT 1) LEFT JOIN heads AS h ON h.space = ?1 AND h.key = ?2
LEFT JOIN log AS l ON l.id = h.entry;

-- name: scan (space, first key, end, now)
SELECT h.key, l.body, h.version, h.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF, h.live
FROM heads AS h CROSS JOIN log AS l ON l.id = h.entry
WHERE h.space = ?1 AND h.key >= ?2 AND h.key < COALESCE(?3, x'') AND h.live
    AND (h.live <= 2 OR h.live > ?4) AND (?2 <> '' OR substr(h.key, 1, 1) <> '$')
ORDER BY h.key;

-- name: list_keys (space, prefix, end, first key, after, limit, now, whether deleted ones, too)
SELECT h.key, h.version, h.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF
FROM heads AS h CROSS JOIN log AS l ON l.id = h.entry
WHERE h.space = ?1 AND h.key >= ?4 AND h.key <> ?5 AND h.key < COALESCE(?3, x'')
    AND (?8 OR h.live AND (h.live <= 2 OR h.live > ?7)) AND (?2 <> '' OR substr(h.key, 1, 1) <> '$')
ORDER BY h.key LIMIT ?6;

-- name: list_expired (space, now, limit)
-- The same of keys whose values have expired, but of those that somebody has the lease of.
SELECT h.key, h.version, h.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF
FROM heads AS h INDEXED BY heads_by_expiry CROSS JOIN log AS l ON l.id = h.entry
WHERE h.space = ?1 AND h.live > 2 AND h.live <= ?2 AND NOT EXISTS (
    SELECT 1 FROM leases AS t WHERE t.space = h.space AND t.key = h.key
    AND t.expires > ?2 AND t.renewed <= ?2 + 1000000)
ORDER BY h.live, h.key LIMIT ?3;

-- name: scan_versions (space, first key, end, now)
SELECT key, version, epoch FROM heads
WHERE space = ?1 AND key >= ?2 AND key < COALESCE(?3, x'') AND live AND (live <= 2 OR live > ?4)
    AND (?2 <> '' OR substr(key, 1, 1) <> '$');

-- name: records_at (keys as a JSON array, space, last id)
-- As `records`, as of a log row.
SELECT k.value, l.body, l.version, l.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF,
    CASE l.kind WHEN 'delete' THEN 0 WHEN 'append' THEN 2 WHEN 'fold' THEN 2
        ELSE COALESCE(l.expires, 1) END
FROM json_each(?1) AS k
LEFT JOIN log AS l ON l.id = (
    SELECT MAX(id) FROM log INDEXED BY log_by_key WHERE space = ?2 AND key = k.value AND id <= ?3)
ORDER BY k.id;

-- name: scan_at (space, first key, end, last id, time)
-- `time`: as of when values have expired.
SELECT l.key, l.body, l.version, l.epoch, l.agent, l.time, l.id & 0xFFFFFFFFFF,
    CASE l.kind WHEN 'append' THEN 2 WHEN 'fold' THEN 2 ELSE COALESCE(l.expires, 1) END
FROM heads AS h CROSS JOIN log AS l ON l.id = (
    SELECT MAX(id) FROM log INDEXED BY log_by_key WHERE space = h.space AND key = h.key AND id <= ?4)
WHERE h.space = ?1 AND h.key >= ?2 AND h.key < COALESCE(?3, x'') AND l.kind <> 'delete'
    AND (l.expires IS NULL OR l.expires > ?5) AND (l.kind <> 'put' OR l.body IS NOT NULL)
    AND (?2 <> '' OR substr(h.key, 1, 1) <> '$')
ORDER BY h.key;

-- name: time_at (id)
SELECT time FROM log WHERE id = ?;

-- name: log_page (after id, last, limit)
SELECT id & 0xFFFFFFFFFF, key, version, epoch, kind, body, agent, time, op, reads, COALESCE(expires, 0)
FROM log WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3;

-- name: log_page_of_prefix (after id, last, limit, first key, end)
SELECT id & 0xFFFFFFFFFF, key, version, epoch, kind, body, agent, time, op, reads, COALESCE(expires, 0)
FROM log WHERE id > ?1 AND id <= ?2 AND key >= ?4 AND (?5 IS NULL OR key < ?5)
ORDER BY id LIMIT ?3;

-- name: log_page_of_key (after id, last, limit, space, key)
SELECT id & 0xFFFFFFFFFF, key, version, epoch, kind, body, agent, time, op, reads, COALESCE(expires, 0)
FROM log INDEXED BY log_by_key WHERE space = ?4 AND key = ?5 AND id > ?1 AND id <= ?2
ORDER BY id LIMIT ?3;

-- name: values_of_key (after id, last, limit, space, key)
-- LIMIT keeps the order for group_concat, which leaves out what is NULL.
SELECT group_concat(body, char(10)), max(id) & 0xFFFFFFFFFF, count(*) FROM (
    SELECT id, body FROM log INDEXED BY log_by_key
    WHERE key = ?5 AND space = ?4 AND id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3
);

-- name: append_log (id, space, key, version, epoch, kind, body, agent, time, op, reads, expires)
INSERT INTO log (id, space, key, version, epoch, kind, body, agent, time, op, reads, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: set_head (space, key, version, epoch, entry, live)
INSERT INTO heads (space, key, version, epoch, entry, live) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (space, key) DO UPDATE
SET version = excluded.version, epoch = excluded.epoch, entry = excluded.entry, live = excluded.live;

-- name: first_ticket (space, key, now)
-- The live ticket whose turn it is.  A ticket renewed in the future is dead: the clock stepped back.
SELECT t.ticket, t.agent, t.expires, t.firm
FROM ticket_keys AS q JOIN tickets AS t ON t.ticket = q.ticket
WHERE q.space = ?1 AND q.key = ?2 AND t.expires > ?3 AND t.renewed <= ?3 + 1000000
ORDER BY q.ticket LIMIT 1;

-- name: queued (space, key, now, limit)
SELECT COUNT(*) FROM (
    SELECT 1 FROM ticket_keys AS q JOIN tickets AS t ON t.ticket = q.ticket
    WHERE q.space = ?1 AND q.key = ?2 AND t.expires > ?3 AND t.renewed <= ?3 + 1000000
    ORDER BY q.ticket LIMIT ?4
);

-- name: waiters (space, key, queue for its lease, now, limit)
SELECT t.agent, q.key = ?3, ?4 - t.renewed FROM ticket_keys AS q JOIN tickets AS t ON t.ticket = q.ticket
WHERE q.space = ?1 AND q.key IN (?2, ?3) AND t.expires > ?4 AND t.renewed <= ?4 + 1000000
ORDER BY q.ticket LIMIT ?5;

-- name: ticket (space, ticket, now)
SELECT ticket, expires, firm FROM tickets
WHERE space = ?1 AND ticket = ?2 AND expires > ?3 AND renewed <= ?3 + 1000000;

-- name: ticket_named (space, name, now)
SELECT ticket, expires > ?3 AND renewed <= ?3 + 1000000 FROM tickets WHERE space = ?1 AND name = ?2;

-- name: keys_of_ticket (space, ticket)
SELECT key FROM ticket_keys WHERE ticket = ?2 AND +space = ?1 ORDER BY key;

-- name: tickets_ahead (space, key, ticket, now, limit)
-- Live ones, first come first.
SELECT q.ticket, t.expires FROM ticket_keys AS q JOIN tickets AS t ON t.ticket = q.ticket
WHERE q.space = ?1 AND q.key = ?2 AND q.ticket < ?3
AND t.expires > ?4 AND t.renewed <= ?4 + 1000000
ORDER BY q.ticket LIMIT ?5;

-- name: count_ahead (space, key, ticket, limit)
-- Of the dead ones, too.
SELECT COUNT(*) FROM (
    SELECT 1 FROM ticket_keys WHERE space = ?1 AND key = ?2 AND ticket < ?3 LIMIT ?4
);

-- name: dead_tickets (space, key, now)
-- Those at the head of a queue.
SELECT t.ticket FROM (
    SELECT ticket FROM ticket_keys WHERE space = ?1 AND key = ?2 ORDER BY ticket LIMIT 64
) AS q JOIN tickets AS t ON t.ticket = q.ticket
WHERE t.expires <= ?3 OR t.renewed > ?3 + 1000000;

-- name: old_dead_tickets (now)
-- Of the oldest of the store, so that queues that nobody comes to any more do not stay.
SELECT ticket, space FROM (SELECT * FROM tickets ORDER BY ticket LIMIT 16)
WHERE expires <= ?1 OR renewed > ?1 + 1000000;

-- name: holders_of (space, name, now)
-- Who waits and has meanwhile what was granted under a name.
SELECT t.ticket, t.agent FROM ticket_holds AS h JOIN tickets AS t ON t.ticket = h.ticket
WHERE h.space = ?1 AND h.name = ?2 AND t.expires > ?3 AND t.renewed <= ?3 + 1000000
ORDER BY t.ticket;

-- name: waiting_ticket (ticket)
-- Who waits, under which name, and whether anything is held meanwhile.
SELECT agent, name, EXISTS (SELECT 1 FROM ticket_holds WHERE ticket = ?1)
FROM tickets WHERE ticket = ?1;

-- name: add_ticket_hold (space, name, ticket)
INSERT INTO ticket_holds (space, name, ticket) VALUES (?, ?, ?);

-- name: drop_ticket_holds (ticket)
DELETE FROM ticket_holds WHERE ticket = ?;

-- name: hurry_ticket (ticket, expires)
UPDATE tickets SET expires = MIN(expires, ?2) WHERE ticket = ?1;

-- name: add_ticket (space, name, agent, renewed, expires, firm)
INSERT INTO tickets (space, name, agent, renewed, expires, firm) VALUES (?, ?, ?, ?, ?, ?);

-- name: add_ticket_key (space, key, ticket)
INSERT INTO ticket_keys (space, key, ticket) VALUES (?, ?, ?);

-- name: renew_ticket (renewed, expires, firm, ticket)
UPDATE tickets SET renewed = ?1, expires = ?2, firm = MAX(firm, ?3) WHERE ticket = ?4;

-- name: drop_ticket (ticket)
DELETE FROM tickets WHERE ticket = ?;

-- name: drop_ticket_keys (space, ticket)
DELETE FROM ticket_keys WHERE ticket = ?2 AND +space = ?1;

-- name: fold (space, key)
SELECT entry, body FROM folds WHERE space = ? AND key = ?;

-- name: save_fold (space, key, entry, body)
-- Never over a later one.
INSERT INTO folds (space, key, entry, body) VALUES (?, ?, ?, ?)
ON CONFLICT (space, key) DO UPDATE SET entry = excluded.entry, body = excluded.body
WHERE excluded.entry > entry;

-- name: contributions (space, key, after id, last id)
-- As one JSON array, and how many.
SELECT '[' || COALESCE(group_concat(body, ','), '') || ']', COUNT(*) FROM (
    SELECT body FROM log INDEXED BY log_by_key
    WHERE space = ? AND key = ? AND id > ? AND id <= ? AND kind = 'append' AND body IS NOT NULL
    ORDER BY id);

-- name: fold_start (space, key, last id)
-- What the contributions to a key as of a log row begin after: the last row that deleted it, or its
-- fold where the log was trimmed.  Reads the key's entries.
SELECT id, body FROM log INDEXED BY log_by_key
WHERE space = ? AND key = ? AND id <= ? AND kind IN ('delete', 'fold') ORDER BY id DESC LIMIT 1;

-- name: redact (positions as a JSON array, first, space, keys as a JSON array)
UPDATE log SET body = NULL
WHERE id IN (SELECT ?2 + p.value FROM json_each(?1) AS p) AND space = ?3
    AND key IN (SELECT k.value FROM json_each(?4) AS k) AND kind <> 'delete' AND body IS NOT NULL;

-- name: set_base (body, id, space, key)
-- What a key was where the log is cut.
UPDATE log SET body = ?1
WHERE id = ?2 AND space = ?3 AND key = ?4 AND kind <> 'delete' AND body IS NOT ?1;

-- name: restart_fold (space, key)
-- Has a fold begin where the contributions that the log has begin, as if none had been kept.
INSERT INTO folds (space, key, entry, body)
SELECT space, key, id, body FROM log INDEXED BY log_by_key
WHERE space = ? AND key = ? AND kind IN ('delete', 'fold') ORDER BY id DESC LIMIT 1;

-- name: drop_projections (space, id)
-- Those that include a log row, or one after it.
DELETE FROM folds
WHERE space = ? AND key >= '$projection/' AND key < '$projection0' AND entry >= ? RETURNING key;

-- name: count_erasure (space)
UPDATE spaces SET erasures = erasures + 1 WHERE space = ?;

-- name: erasures (space)
SELECT erasures FROM spaces WHERE space = ?;

-- name: trimmed (space)
-- No row where the space was dropped.
SELECT trimmed FROM spaces WHERE space = ? AND name NOT LIKE ' %';

-- name: set_trimmed (position, space)
UPDATE spaces SET trimmed = ? WHERE space = ?;

-- name: needed (space, first)
-- The first position that a consumer group has not dealt or that is not acknowledged, or that what is
-- kept of a projection does not include; and the name of the group or projection.
SELECT MIN(g.cursor + 1, COALESCE(
    (SELECT MIN(p.position) FROM group_pending AS p WHERE p.group_id = g.id), g.cursor + 1)) AS needed,
    g.name AS name
FROM groups AS g WHERE g.space = ?1
UNION ALL
SELECT f.entry - ?2 + 1, f.key FROM folds AS f
WHERE f.space = ?1 AND f.key >= '$projection/' AND f.key < '$projection0'
ORDER BY needed, name LIMIT 1;

-- name: drop_fold (space, key)
DELETE FROM folds WHERE space = ? AND key = ?;

-- name: last_of_keys (after id, last id)
SELECT key, MAX(id) FROM log WHERE id > ? AND id <= ? GROUP BY key;

-- name: drop_older (space, key, id)
DELETE FROM log WHERE space = ? AND key = ? AND id < ?;

-- name: become_fold (fold, id)
UPDATE log SET kind = 'fold', body = ?, op = '', reads = NULL WHERE id = ?;

-- name: become_base (id)
UPDATE log SET op = '', reads = NULL WHERE id = ?;

-- name: lease (space, key)
SELECT epoch, holder, name, renewed, expires FROM leases WHERE space = ? AND key = ?;

-- name: leases (keys as a JSON array, space)
SELECT l.key, l.epoch, l.holder, l.renewed, l.expires
FROM json_each(?1) AS k CROSS JOIN leases AS l ON l.space = ?2 AND l.key = k.value;

-- name: set_lease (space, key, epoch, holder, name, renewed, expires)
INSERT OR REPLACE INTO leases (space, key, epoch, holder, name, renewed, expires)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: renew_lease (renewed, expires, space, key, epoch)
UPDATE leases SET renewed = ?, expires = ? WHERE space = ? AND key = ? AND epoch = ?;

-- name: drop_lease (space, key, epoch)
DELETE FROM leases WHERE space = ? AND key = ? AND epoch <= ?;

-- name: drop_lease_named (space, key, name)
DELETE FROM leases WHERE space = ? AND key = ? AND name = ?;

-- name: raise_epoch (space, key)
INSERT INTO heads (space, key, version, epoch, entry, live) VALUES (?, ?, 0, 1, 0, 0)
ON CONFLICT (space, key) DO UPDATE SET epoch = epoch + 1;

-- name: incarnation (space, agent)
SELECT incarnation, name FROM agents WHERE space = ? AND agent = ?;

-- name: incarnations (agents as a JSON array, space)
SELECT a.agent, a.incarnation
FROM json_each(?1) AS n CROSS JOIN agents AS a ON a.space = ?2 AND a.agent = n.value;

-- name: set_incarnation (space, agent, incarnation, name)
INSERT OR REPLACE INTO agents (space, agent, incarnation, name) VALUES (?, ?, ?, ?);

-- name: add_refusal (space, key, agent, reason, other, behind, time, op)
INSERT INTO refusals (space, key, agent, reason, other, behind, time, op)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- name: trim_refusals (space, how many to keep)
DELETE FROM refusals WHERE space = ?1 AND id <= (
    SELECT id FROM refusals WHERE space = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2);

-- name: refusals (space, limit)
-- The newest first.
SELECT key, agent, reason, other, behind, time, op FROM refusals INDEXED BY refusals_by_space
WHERE space = ? ORDER BY id DESC LIMIT ?;

-- name: group (space, name)
SELECT id, prefix, cursor FROM groups WHERE space = ? AND name = ?;

-- name: group_names (space)
SELECT name FROM groups WHERE space = ? ORDER BY name;

-- name: add_group (space, name, prefix, cursor)
INSERT INTO groups (space, name, prefix, cursor) VALUES (?, ?, ?, ?);

-- name: move_group (cursor, group)
UPDATE groups SET cursor = ? WHERE id = ?;

-- name: drop_group (group)
DELETE FROM groups WHERE id = ?;

-- name: drop_consumers (group)
DELETE FROM group_consumers WHERE group_id = ?;

-- name: drop_pending (group)
DELETE FROM group_pending WHERE group_id = ?;

-- name: consumer (group, consumer)
SELECT seen, ttl, acked FROM group_consumers WHERE group_id = ? AND consumer = ?;

-- name: set_consumer (group, consumer, seen, ttl)
INSERT INTO group_consumers (group_id, consumer, seen, ttl, acked) VALUES (?, ?, ?, ?, '[]')
ON CONFLICT (group_id, consumer) DO UPDATE SET seen = excluded.seen, ttl = excluded.ttl;

-- name: consumer_acked (seen, positions as a JSON array, group, consumer)
UPDATE group_consumers SET seen = ?, acked = ? WHERE group_id = ? AND consumer = ?;

-- name: dead_consumers (group, now)
-- Those with entries that may be claimed.
SELECT c.consumer FROM group_consumers AS c
WHERE c.group_id = ?1 AND (c.seen + c.ttl <= ?2 OR c.seen > ?2 + 1000000) AND EXISTS (
    SELECT 1 FROM group_pending AS p WHERE p.group_id = c.group_id AND p.consumer = c.consumer);

-- name: forget_consumers (group, time)
-- Those dead since before `time` that have nothing pending.
DELETE FROM group_consumers WHERE group_id = ?1 AND seen + ttl < ?2 AND NOT EXISTS (
    SELECT 1 FROM group_pending AS p
    WHERE p.group_id = ?1 AND p.consumer = group_consumers.consumer);

-- name: undelivered (group, consumer, limit)
SELECT position, key FROM group_pending
WHERE group_id = ? AND consumer = ? AND batch = '' ORDER BY position LIMIT ?;

-- name: undelivered_sizes (group, consumer, limit, first id)
-- The same, and how long each is.
SELECT position, (SELECT LENGTH(body) FROM log WHERE id = ?4 + position) FROM group_pending
WHERE group_id = ?1 AND consumer = ?2 AND batch = '' ORDER BY position LIMIT ?3;

-- name: undeliver (group, consumer)
-- What was delivered counts as not delivered, so that it is delivered again.
UPDATE group_pending SET batch = '' WHERE group_id = ? AND consumer = ? AND batch > '';

-- name: claim_key (consumer, group, key)
UPDATE group_pending SET consumer = ?, batch = '' WHERE group_id = ? AND key = ?;

-- name: holder (group, key)
-- The consumer that all pending entries of a key are with.
SELECT consumer FROM group_pending WHERE group_id = ? AND key = ? LIMIT 1;

-- name: add_pending (group, position, key, consumer)
INSERT INTO group_pending (group_id, position, key, consumer, batch, deliveries)
VALUES (?, ?, ?, ?, '', 0);

-- name: deliver (batch, group, position)
UPDATE group_pending SET batch = ?, deliveries = deliveries + 1 WHERE group_id = ? AND position = ?;

-- name: delivered (first, group, consumer, batch)
-- The log rows that a request delivered, and how often each was delivered.
SELECT p.deliveries, l.id & 0xFFFFFFFFFF, l.key, l.version, l.epoch, l.kind, l.body, l.agent,
    l.time, l.op, l.reads, COALESCE(l.expires, 0)
FROM group_pending AS p CROSS JOIN log AS l ON l.id = ?1 + p.position
WHERE p.group_id = ?2 AND p.consumer = ?3 AND p.batch = ?4 ORDER BY p.position;

-- name: group_window (after id, last id, first key, end)
-- What a group may deal between two log rows.
SELECT id & 0xFFFFFFFFFF, key FROM log
WHERE id > ?1 AND id <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4) AND substr(key, 1, 1) <> '$'
ORDER BY id;

-- name: acknowledge (pairs of position and deliveries as a JSON array, group, consumer)
DELETE FROM group_pending WHERE group_id = ?2 AND consumer = ?3 AND (position, deliveries) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1))
RETURNING position;

-- name: consumers (group)
SELECT c.consumer, c.seen, c.ttl, (
    SELECT COUNT(*) FROM group_pending AS p
    WHERE p.group_id = c.group_id AND p.consumer = c.consumer)
FROM group_consumers AS c WHERE c.group_id = ? ORDER BY c.consumer;

-- name: pending (group, limit)
SELECT position, key, consumer, deliveries FROM group_pending
WHERE group_id = ? ORDER BY position LIMIT ?;
