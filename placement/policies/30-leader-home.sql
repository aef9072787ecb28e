-- Leaders are preferred in the shard's home region.
CREATE CONSTRAINT leader_home AS
SELECT * FROM leaders l
JOIN shards s ON s.shard_id = l.shard_id
JOIN nodes n ON n.node_id = l.controllable__leader
WHERE s.home_region IS NOT NULL
MINIMIZE n.region <> s.home_region TIER 0;
