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
INSERT INTO replicas VALUES (1, 0, 'voter', 'n1', 'n1'), (1, 1, 'voter', NULL, NULL);
INSERT INTO leaders VALUES (1, 'n1', 'n1'), (2, NULL, NULL);
INSERT INTO replicas VALUES (2, 0, 'voter', 'n2', 'n2');
---- policies
CREATE CONSTRAINT leader_on_replica AS
SELECT * FROM leaders l CHECK EXISTS (SELECT 1 FROM replicas r WHERE r.shard_id = l.shard_id AND r.controllable__node = l.controllable__leader);
CREATE CONSTRAINT leader_home AS
SELECT * FROM leaders l JOIN shards s ON s.shard_id = l.shard_id JOIN nodes n ON n.node_id = l.controllable__leader
MINIMIZE n.region <> s.home_region TIER 0;
CREATE VIEW leader_count AS
SELECT n.node_id, count(*) AS leaders FROM leaders l JOIN nodes n ON n.node_id = l.controllable__leader GROUP BY n.node_id;
CREATE CONSTRAINT leader_spread AS SELECT * FROM leader_count c MINIMIZE max(c.leaders) TIER 1;
CREATE CONSTRAINT stay AS SELECT * FROM replicas r MINIMIZE r.controllable__node <> r.current_node TIER 2;
---- answer
optimal
tier 0 0
tier 1 1
tier 2 1
leaders 1 controllable__leader "n1"
leaders 2 controllable__leader "n4"
replicas 1,0 controllable__node "n1"
replicas 1,1 controllable__node "n1"
replicas 2,0 controllable__node "n4"
