-- Bytes and leaders are balanced, with hysteresis: only a node that holds a quarter more than its target is
-- relieved, and then down to the target; any other may keep what it holds, but not grow beyond the target. Loads
-- that waver by a tenth around a settled placement therefore move nothing.
CREATE VIEW held_bytes AS
SELECT r.current_node AS node_id, sum(s.bytes) AS bytes
FROM replicas r JOIN shards s ON s.shard_id = r.shard_id
GROUP BY r.current_node;

-- A tenth more than the share that its capacity entitles a node to, and room for one more shard.
CREATE VIEW target_bytes AS
SELECT n.node_id,
    CAST(1.1 * n.cap_bytes / (SELECT max(sum(m.cap_bytes), 1) FROM nodes m WHERE m.status = 'up')
        * (SELECT coalesce(sum(s.bytes * s.rf), 0) FROM shards s) AS INTEGER)
        + (SELECT coalesce(max(s.bytes), 0) FROM shards s) AS bytes,
    coalesce((SELECT h.bytes FROM held_bytes h WHERE h.node_id = n.node_id), 0) AS held
FROM nodes n WHERE n.status = 'up';

CREATE VIEW limit_bytes AS
SELECT node_id, CASE WHEN held > bytes * 5 / 4 THEN bytes ELSE max(bytes, held) END AS bytes
FROM target_bytes;

CREATE CONSTRAINT balance_bytes AS
SELECT * FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
JOIN limit_bytes l ON l.node_id = r.controllable__node
GROUP BY l.node_id, l.bytes
MINIMIZE max(coalesce(sum(s.bytes), 0) - l.bytes, 0) TIER 1;

CREATE VIEW fair_leaders AS
SELECT n.node_id, (SELECT count(*) FROM shards) / max((SELECT count(*) FROM nodes WHERE status = 'up'), 1) + 1 AS leaders
FROM nodes n WHERE n.status = 'up';

CREATE CONSTRAINT balance_leaders AS
SELECT * FROM leaders l
JOIN fair_leaders f ON f.node_id = l.controllable__leader
GROUP BY f.node_id, f.leaders
MINIMIZE max(count(*) - f.leaders, 0) TIER 2;
