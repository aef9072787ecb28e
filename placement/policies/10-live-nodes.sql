-- Every replica stands on a node that is up. A node that drains or is down is left; nothing newly goes there.
CREATE CONSTRAINT live_nodes AS
SELECT * FROM replicas
CHECK controllable__node IN (SELECT node_id FROM nodes WHERE status = 'up');

-- So does every leader: it follows from the other policies, and says where a leader need not be looked for.
CREATE CONSTRAINT live_leaders AS
SELECT * FROM leaders
CHECK controllable__leader IN (SELECT node_id FROM nodes WHERE status = 'up');
