-- A zone holds no more replicas of a shard than it must: one each while there are enough live zones.
CREATE VIEW live_zones AS
SELECT count(DISTINCT zone) AS zones FROM nodes WHERE status = 'up';

CREATE CONSTRAINT zone_spread AS
SELECT * FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
CROSS JOIN live_zones z
GROUP BY r.shard_id, n.zone, s.rf, z.zones
CHECK count(*) <= (s.rf + z.zones - 1) / nullif(z.zones, 0);
