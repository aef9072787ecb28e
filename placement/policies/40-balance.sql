-- Bytes and replicas are spread, with hysteresis: only a node that holds a quarter more than its target is relieved,
-- and then down to the target; any other may keep what it holds, but not grow beyond the target. Loads that waver by
-- a tenth around a settled placement therefore move nothing. Leaders are spread after that: they cost no bytes, and no
-- replica moves for them (tier 3, see stickiness).
CREATE VIEW zones_up AS
SELECT zone, count(*) AS nodes, sum(cap_bytes) AS bytes FROM nodes WHERE status = 'up' GROUP BY zone;

CREATE VIEW to_hold AS
SELECT count(*) AS shards, coalesce(max(rf), 1) AS rf, coalesce(sum(rf), 0) AS replicas,
    coalesce(sum(bytes * rf), 0) AS bytes, coalesce(max(bytes), 0) AS largest
FROM shards;

-- A tenth more than the share that its capacity entitles a node to, and room for one more. Where zones are so few that
-- each must hold its part of every shard, it is a share of the zone's part. Bytes are rounded to two digits, so that
-- targets stand still while loads waver.
CREATE VIEW targets AS
SELECT n.node_id,
    CAST(CAST(printf('%.1e', coalesce(1.1 * h.bytes * n.cap_bytes
        / CASE WHEN u.zones <= h.rf THEN u.zones * coalesce(z.bytes, u.bytes) ELSE u.bytes END, 0) + h.largest)
        AS REAL) AS INTEGER) AS bytes,
    CAST(coalesce(1.1 * h.replicas
        / CASE WHEN u.zones <= h.rf THEN u.zones * coalesce(z.nodes, u.nodes) ELSE u.nodes END, 0) AS INTEGER) + 1
        AS replicas,
    CAST(coalesce(1.1 * h.shards / u.nodes, 0) AS INTEGER) + 1 AS leaders
FROM nodes n
CROSS JOIN to_hold h
CROSS JOIN (SELECT count(*) AS zones, sum(nodes) AS nodes, sum(bytes) AS bytes FROM zones_up) u
LEFT JOIN zones_up z ON z.zone = n.zone;

CREATE CONSTRAINT balance_bytes AS
SELECT * FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
JOIN targets t ON t.node_id = r.controllable__node
GROUP BY t.node_id, t.bytes
MINIMIZE max(coalesce(sum(s.bytes), 0)
    - CASE WHEN present(sum(s.bytes)) > t.bytes * 5 / 4 THEN t.bytes
           ELSE max(t.bytes, coalesce(present(sum(s.bytes)), 0)) END, 0) TIER 1;

CREATE CONSTRAINT balance_replicas AS
SELECT * FROM replicas r
JOIN targets t ON t.node_id = r.controllable__node
GROUP BY t.node_id, t.replicas
MINIMIZE max(count(*)
    - CASE WHEN present(count(*)) > t.replicas * 5 / 4 THEN t.replicas
           ELSE max(t.replicas, present(count(*))) END, 0) TIER 2;

CREATE CONSTRAINT balance_leaders AS
SELECT * FROM leaders l
JOIN targets t ON t.node_id = l.controllable__leader
GROUP BY t.node_id, t.leaders
MINIMIZE max(count(*) - t.leaders, 0) TIER 4;
