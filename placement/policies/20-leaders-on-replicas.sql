-- A shard's leader is one of its voters.
CREATE CONSTRAINT leader_on_replica AS
SELECT * FROM leaders l
CHECK EXISTS (
    SELECT 1 FROM replicas r
    WHERE r.shard_id = l.shard_id AND r.role = 'voter' AND r.controllable__node = l.controllable__leader
);
