-- The replicas of a shard stand on distinct nodes.
CREATE CONSTRAINT distinct_nodes AS
SELECT * FROM replicas r
GROUP BY r.shard_id, r.controllable__node
CHECK count(*) <= 1;
