-- A replica moves only for something that counts more, and then as few bytes as possible.
CREATE CONSTRAINT stickiness AS
SELECT * FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
WHERE r.current_node IS NOT NULL
MINIMIZE (r.controllable__node <> r.current_node) * (s.bytes + 1) TIER 3;

CREATE CONSTRAINT leader_stickiness AS
SELECT * FROM leaders l
WHERE l.current_leader IS NOT NULL
MINIMIZE l.controllable__leader <> l.current_leader TIER 5;
