---- state
CREATE TABLE zones (zone TEXT PRIMARY KEY);
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, region TEXT, disk TEXT, status TEXT, cap_bytes INTEGER, cap_qps INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, tag TEXT, bytes INTEGER, read_qps INTEGER, write_qps INTEGER, rf INTEGER, home_region TEXT, colo_group TEXT);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, role TEXT, current_node TEXT, controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
CREATE TABLE leaders (shard_id INTEGER PRIMARY KEY, current_leader TEXT, controllable__leader TEXT REFERENCES nodes (node_id));
CREATE TABLE pins (shard_id INTEGER, slot INTEGER, node TEXT);
INSERT INTO zones VALUES ('a'), ('b'), ('c');
INSERT INTO nodes VALUES ('n1', 'a', 'eu', 'ssd', 'up', 10, 100), ('n2', 'a', 'eu', 'hdd', 'up', 10, 100), ('n3', 'b', 'eu', 'ssd', 'up', 10, 100), ('n4', 'b', 'us', 'hdd', 'up', 10, 100), ('n5', 'c', 'us', 'ssd', 'up', 10, 100);
INSERT INTO shards VALUES (1, 'eu', 4, 5, 5, 3, 'eu', NULL), (2, NULL, 3, 20, 1, 2, 'us', NULL);
INSERT INTO replicas VALUES (1, 0, 'voter', 'n1', 'n1'), (1, 1, 'voter', 'n1', 'n1'), (2, 0, 'voter', 'n1', 'n1'), (2, 1, 'voter', 'n1', 'n1');
---- policies
CREATE CONSTRAINT at_most_two_moves AS
SELECT * FROM replicas r CHECK sum(r.controllable__node <> r.current_node) <= 2;
CREATE VIEW node_load AS
SELECT n.node_id, coalesce(sum(s.bytes), 0) AS load FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.node_id;
CREATE CONSTRAINT balance AS SELECT * FROM node_load l MINIMIZE max(l.load);
---- answer
optimal
tier 0 6
replicas 1,0 controllable__node "n3"
replicas 1,1 controllable__node "n2"
replicas 2,0 controllable__node "n1"
replicas 2,1 controllable__node "n1"
