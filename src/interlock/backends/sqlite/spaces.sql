-- The statements about spaces as a whole, as statements.sql has those of one.

-- name: spaces ()
-- Those that were not dropped.
SELECT space, name, trimmed, importing FROM spaces WHERE name NOT LIKE ' %' ORDER BY name;

-- name: add_space (name, uid, created, importing)
INSERT INTO spaces (name, uid, created, importing) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO NOTHING;

-- name: set_space_trimmed (position, name)
UPDATE spaces SET trimmed = ? WHERE name = ?;

-- name: rename_space (to, uid)
UPDATE spaces SET name = ? WHERE uid = ?;

-- name: retire_space (uid)
-- What a dropped space leaves: its number is never used again.
UPDATE spaces SET name = ' ' || uid WHERE uid = ?;

-- name: space_of_uid (uid)
SELECT space, name, importing FROM spaces WHERE uid = ? AND name NOT LIKE ' %';

-- name: count_keys (space, now)
SELECT COUNT(*) FROM heads
WHERE space = ?1 AND live AND (live <= 2 OR live > ?2) AND substr(key, 1, 1) <> '$';

-- name: last_entry (first, last)
SELECT id & 0xFFFFFFFFFF, time FROM log WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT 1;

-- name: mean_size (first, last)
-- Bytes of a row of the log with its indexes, by the last thousand.
SELECT AVG(size) FROM (
    SELECT 60 + 3 * LENGTH(key) + 2 * LENGTH(op) + LENGTH(agent) + COALESCE(LENGTH(body), 0)
        + COALESCE(LENGTH(reads), 0) AS size
    FROM log WHERE id > ? AND id <= ? ORDER BY id DESC LIMIT 1000
);

-- name: holds_anything (space)
SELECT EXISTS (SELECT 1 FROM heads WHERE space = ?1) OR EXISTS (SELECT 1 FROM agents WHERE space = ?1)
    OR EXISTS (SELECT 1 FROM groups WHERE space = ?1);

-- name: drop_log (first, last)
DELETE FROM log WHERE id > ? AND id <= ?;

-- name: drop_all_heads (space)
DELETE FROM heads WHERE space = ?;

-- name: drop_all_folds (space)
DELETE FROM folds WHERE space = ?;

-- name: drop_all_leases (space)
DELETE FROM leases WHERE space = ?;

-- name: drop_all_agents (space)
DELETE FROM agents WHERE space = ?;

-- name: drop_all_refusals (space)
DELETE FROM refusals WHERE space = ?;

-- name: drop_all_tickets (space)
DELETE FROM tickets WHERE space = ?;

-- name: drop_all_ticket_keys (space)
DELETE FROM ticket_keys WHERE space = ?;

-- name: drop_all_ticket_holds (space)
DELETE FROM ticket_holds WHERE space = ?;

-- name: drop_all_pending (space)
DELETE FROM group_pending WHERE group_id IN (SELECT id FROM groups WHERE space = ?);

-- name: drop_all_consumers (space)
DELETE FROM group_consumers WHERE group_id IN (SELECT id FROM groups WHERE space = ?);

-- name: drop_all_groups (space)
DELETE FROM groups WHERE space = ?;

-- name: source (space)
SELECT importing FROM spaces WHERE space = ?;

-- name: finished (space)
UPDATE spaces SET importing = NULL WHERE space = ?;

-- name: raised_epochs (space)
-- Keys whose epoch is above that of their last entry; a lease that was not given up raises it by one.
SELECT key, raised FROM (
    SELECT h.key AS key, h.epoch + COALESCE(l.epoch = h.epoch, 0) AS raised, e.epoch AS logged
    FROM heads AS h LEFT JOIN leases AS l ON l.space = h.space AND l.key = h.key
    LEFT JOIN log AS e ON e.id = h.entry
    WHERE h.space = ? AND h.epoch > 0
) WHERE raised > COALESCE(logged, 0);

-- name: all_agents (space)
SELECT agent, incarnation FROM agents WHERE space = ?;

-- name: all_groups (space)
SELECT name, prefix, cursor FROM groups WHERE space = ?;

-- name: all_pending (space)
SELECT g.name, p.position, p.key, p.consumer, p.deliveries
FROM groups AS g JOIN group_pending AS p ON p.group_id = g.id WHERE g.space = ?;

-- name: all_projections (space, first)
SELECT key, entry - ?2, body FROM folds
WHERE space = ?1 AND key >= '$projection/' AND key < '$projection0';

-- name: base_page (space, after key, limit, last id)
SELECT l.id & 0xFFFFFFFFFF, l.key, l.version, l.epoch, l.kind,
    CASE l.kind WHEN 'append' THEN NULL ELSE l.body END, l.agent, l.time, '', NULL, COALESCE(l.expires, 0)
FROM heads AS h CROSS JOIN log AS l ON l.id = (
    SELECT MAX(id) FROM log INDEXED BY log_by_key WHERE space = h.space AND key = h.key AND id <= ?4)
WHERE h.space = ?1 AND h.key > ?2 ORDER BY h.key LIMIT ?3;

-- name: replace_log (id, space, key, version, epoch, kind, body, agent, time, op, reads, expires)
INSERT OR REPLACE INTO log (id, space, key, version, epoch, kind, body, agent, time, op, reads, expires)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: set_epoch (space, key, epoch)
INSERT INTO heads (space, key, version, epoch, entry, live) VALUES (?, ?, 0, ?, 0, 0)
ON CONFLICT (space, key) DO UPDATE SET epoch = excluded.epoch;

-- name: restore_consumer (space, group, consumer)
-- One that is dead: others may claim what is pending with it.
INSERT OR IGNORE INTO group_consumers (group_id, consumer, seen, ttl, acked)
SELECT id, ?3, 0, 0, '[]' FROM groups WHERE space = ?1 AND name = ?2;

-- name: restore_pending (space, group, position, key, consumer, deliveries)
INSERT OR IGNORE INTO group_pending (group_id, position, key, consumer, batch, deliveries)
SELECT id, ?3, ?4, ?5, '', ?6 FROM groups WHERE space = ?1 AND name = ?2;

-- name: all_leases (space)
SELECT key, holder, expires FROM leases WHERE space = ? ORDER BY key;

-- name: all_queues (space, now)
-- Which keys have a queue, how many wait, and how many of them are dead.
SELECT q.key, COUNT(*), SUM(t.expires <= ?2)
FROM ticket_keys AS q JOIN tickets AS t ON t.ticket = q.ticket
WHERE q.space = ?1 GROUP BY q.key ORDER BY q.key;

-- name: group_lags (space, now)
-- Of each group: what it has dealt the log up to, how much is pending, and with dead consumers.
SELECT g.name, g.cursor, COUNT(p.position), COALESCE(SUM(c.seen + c.ttl <= ?2), 0)
FROM groups AS g LEFT JOIN group_pending AS p ON p.group_id = g.id
LEFT JOIN group_consumers AS c ON c.group_id = g.id AND c.consumer = p.consumer
WHERE g.space = ?1 GROUP BY g.id ORDER BY g.name;
