-- Load balancing of virtual machines, within a budget of migrations.

CREATE CONSTRAINT memory AS
SELECT * FROM vms v JOIN hosts h ON h.host = v.controllable__host
GROUP BY h.host, h.memory
CHECK sum(v.memory) <= h.memory;

CREATE CONSTRAINT migrations AS
SELECT * FROM vms v
CHECK sum(v.controllable__host <> v.current_host) <= 4;

-- Load in thousandths of a host.
CREATE VIEW host_load AS
SELECT h.host, coalesce(sum(v.cpu), 0) * 1000 / h.cpu AS load
FROM vms v JOIN hosts h ON h.host = v.controllable__host
GROUP BY h.host, h.cpu;

CREATE CONSTRAINT balance AS
SELECT * FROM host_load l MINIMIZE max(l.load) - min(l.load) TIER 0;

CREATE CONSTRAINT stay AS
SELECT * FROM vms v MINIMIZE (v.controllable__host <> v.current_host) * v.memory TIER 1;
