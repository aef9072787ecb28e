---- state
CREATE TABLE zones (zone TEXT PRIMARY KEY);
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, region TEXT, disk TEXT, status TEXT, cap_bytes INTEGER, cap_qps INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, tag TEXT, bytes INTEGER, read_qps INTEGER, write_qps INTEGER, rf INTEGER, home_region TEXT, colo_group TEXT);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, role TEXT, current_node TEXT, controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
CREATE TABLE leaders (shard_id INTEGER PRIMARY KEY, current_leader TEXT, controllable__leader TEXT REFERENCES nodes (node_id));
CREATE TABLE pins (shard_id INTEGER, slot INTEGER, node TEXT);
INSERT INTO zones VALUES ('a'), ('b'), ('c');
INSERT INTO nodes VALUES ('n1', 'a', 'eu', 'ssd', 'up', 6, 20), ('n2', 'a', 'eu', 'hdd', 'up', 9, 12), ('n3', 'b', 'eu', 'ssd', 'up', 3, 60);
INSERT INTO shards VALUES (1, 'eu', 4, 5, 5, 3, 'eu', NULL), (2, NULL, 3, 20, 1, 2, 'us', NULL);
INSERT INTO replicas VALUES (1, 0, 'voter', 'n1', 'n1'), (1, 1, 'voter', NULL, NULL), (2, 0, 'voter', 'n2', 'n2'), (2, 1, 'voter', 'n1', 'n1');
---- policies
CREATE CONSTRAINT capacity AS
SELECT * FROM replicas r JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.cap_bytes, n.cap_qps
CHECK sum(s.bytes) <= n.cap_bytes AND sum(s.read_qps + s.write_qps) <= n.cap_qps;
CREATE CONSTRAINT stay AS SELECT * FROM replicas r MINIMIZE r.controllable__node <> r.current_node;
---- answer
infeasible
core capacity {"cap_bytes":6,"cap_qps":20,"node_id":"n1"}
core capacity {"cap_bytes":9,"cap_qps":12,"node_id":"n2"}
core capacity {"cap_bytes":3,"cap_qps":60,"node_id":"n3"}
