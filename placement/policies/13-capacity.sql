-- No node holds more bytes, serves more requests or carries more replicas than it can.
CREATE CONSTRAINT capacity AS
SELECT * FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id
JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.cap_bytes, n.cap_qps, n.cap_replicas
CHECK sum(s.bytes) <= n.cap_bytes
  AND sum(s.read_qps + s.write_qps) <= n.cap_qps
  AND count(*) <= n.cap_replicas;
