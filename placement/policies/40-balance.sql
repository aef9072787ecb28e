-- Bytes and leaders are balanced: what a node holds beyond a tenth above its fair share counts. Inside of the
-- band nothing is gained, so nothing moves.
CREATE VIEW fair_bytes AS
SELECT n.node_id, 11 * n.cap_bytes * (SELECT coalesce(sum(s.bytes * s.rf), 0) FROM shards s) / 10
    / (SELECT max(sum(m.cap_bytes), 1) FROM nodes m WHERE m.status = 'up') AS bytes
FROM nodes n WHERE n.status = 'up';

CREATE VIEW node_bytes AS
SELECT f.node_id, f.bytes AS fair, coalesce(sum(s.bytes), 0) AS bytes
FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
JOIN fair_bytes f ON f.node_id = r.controllable__node
GROUP BY f.node_id, f.bytes;

CREATE CONSTRAINT balance_bytes AS
SELECT * FROM node_bytes b
MINIMIZE max(b.bytes - b.fair, 0) TIER 1;

CREATE VIEW fair_leaders AS
SELECT n.node_id, (SELECT count(*) FROM shards) / max((SELECT count(*) FROM nodes WHERE status = 'up'), 1) + 1 AS leaders
FROM nodes n WHERE n.status = 'up';

CREATE CONSTRAINT balance_leaders AS
SELECT * FROM leaders l
JOIN fair_leaders f ON f.node_id = l.controllable__leader
GROUP BY f.node_id, f.leaders
MINIMIZE max(count(*) - f.leaders, 0) TIER 2;
