---- state
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, status TEXT, cap INTEGER);
CREATE TABLE replicas (id INTEGER PRIMARY KEY, current_node TEXT, controllable__node TEXT REFERENCES nodes (node_id));
INSERT INTO nodes VALUES ('n1', 'down', 0), ('n2', 'up', 1), ('n3', 'up', 1);
INSERT INTO replicas VALUES (1, 'n1', 'n1'), (2, 'n2', 'n2');
---- policies
-- The present value is none that the first policy allows: what it adds to its node's load now is no constant.
CREATE CONSTRAINT live AS
SELECT * FROM replicas CHECK controllable__node IN (SELECT node_id FROM nodes WHERE status = 'up');
CREATE VIEW node_load AS
SELECT n.node_id, n.cap, count(*) AS c FROM replicas r JOIN nodes n ON n.node_id = r.controllable__node
GROUP BY n.node_id, n.cap;
CREATE CONSTRAINT room AS SELECT * FROM node_load l CHECK l.c <= l.cap;
---- answer
optimal
replicas 1 controllable__node "n3"
replicas 2 controllable__node "n2"
