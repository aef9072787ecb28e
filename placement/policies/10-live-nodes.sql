-- Every replica stands on a node that is up. A node that drains or is down is left; nothing newly goes there.
CREATE CONSTRAINT live_nodes AS
SELECT * FROM replicas
CHECK controllable__node IN (SELECT node_id FROM nodes WHERE status = 'up');
