---- state
CREATE TABLE zones (zone TEXT PRIMARY KEY);
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, region TEXT, disk TEXT, status TEXT, cap_bytes INTEGER, cap_qps INTEGER);
CREATE TABLE shards (shard_id INTEGER PRIMARY KEY, tag TEXT, bytes INTEGER, read_qps INTEGER, write_qps INTEGER, rf INTEGER, home_region TEXT, colo_group TEXT);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, role TEXT, current_node TEXT, controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
CREATE TABLE leaders (shard_id INTEGER PRIMARY KEY, current_leader TEXT, controllable__leader TEXT REFERENCES nodes (node_id));
CREATE TABLE pins (shard_id INTEGER, slot INTEGER, node TEXT);
INSERT INTO zones VALUES ('a'), ('b'), ('c');
INSERT INTO nodes VALUES ('n1', 'a', 'eu', 'ssd', 'up', 8, 100), ('n3', 'b', 'eu', 'ssd', 'up', 9, 100), ('n5', 'c', 'us', 'ssd', 'up', 7, 100);
INSERT INTO shards VALUES (1, 'eu', 4, 5, 5, 3, 'eu', NULL), (2, NULL, 3, 20, 1, 2, 'us', NULL);
INSERT INTO replicas VALUES (1, 0, 'voter', 'n1', 'n1'), (1, 1, 'voter', NULL, NULL), (2, 0, 'voter', 'n1', 'n1'), (2, 1, 'voter', 'n1', 'n1');
---- policies
CREATE VIEW zone_load AS
SELECT n.zone, coalesce(sum(s.bytes), 0) AS load FROM replicas r
JOIN shards s ON s.shard_id = r.shard_id JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.zone;
CREATE VIEW zone_cap AS SELECT zone, sum(cap_bytes) AS cap FROM nodes GROUP BY zone;
CREATE CONSTRAINT capacity AS
SELECT * FROM zone_load l JOIN zone_cap c ON c.zone = l.zone CHECK l.load <= c.cap;
CREATE CONSTRAINT lose_any_zone AS
SELECT * FROM zone_load l
CHECK l.load <= (SELECT sum(c.cap - o.load) FROM zone_load o JOIN zone_cap c ON c.zone = o.zone WHERE o.zone <> l.zone);
CREATE CONSTRAINT stay AS SELECT * FROM replicas r MINIMIZE r.controllable__node <> r.current_node;
---- answer
optimal
tier 0 1
replicas 1,0 controllable__node "n3"
replicas 1,1 controllable__node "n3"
replicas 2,0 controllable__node "n1"
replicas 2,1 controllable__node "n1"
