-- A scheduler in the manner of Kubernetes, in DCM's spirit: each rule a few lines.

CREATE CONSTRAINT capacity AS
SELECT * FROM pods p JOIN nodes n ON n.node_id = p.controllable__node
GROUP BY n.node_id, n.cpu, n.memory
CHECK sum(p.cpu) <= n.cpu AND sum(p.memory) <= n.memory;

CREATE CONSTRAINT node_selectors AS
SELECT * FROM pods p JOIN pod_selectors s ON s.pod_id = p.pod_id
CHECK p.controllable__node IN (
    SELECT l.node_id FROM node_labels l WHERE l.label = s.label AND l.value = s.value);

CREATE CONSTRAINT taints AS
SELECT * FROM pods p
CHECK p.controllable__node NOT IN (
    SELECT t.node_id FROM node_taints t
    WHERE NOT EXISTS (SELECT 1 FROM pod_tolerations o WHERE o.pod_id = p.pod_id AND o.taint = t.taint));

CREATE CONSTRAINT affinity AS
SELECT * FROM pods p
JOIN pod_affinity a ON a.pod_id = p.pod_id
JOIN nodes n ON n.node_id = p.controllable__node
CHECK EXISTS (
    SELECT 1 FROM pods q JOIN nodes m ON m.node_id = q.controllable__node
    WHERE q.app = a.app AND q.pod_id <> p.pod_id AND m.zone = n.zone);

CREATE CONSTRAINT anti_affinity AS
SELECT * FROM pods p
JOIN pod_anti_affinity a ON a.pod_id = p.pod_id
CHECK NOT EXISTS (
    SELECT 1 FROM pods q
    WHERE q.app = a.app AND q.pod_id <> p.pod_id AND q.controllable__node = p.controllable__node);

-- A running pod stays where it is, or is preempted; it is not moved.
CREATE CONSTRAINT no_migration AS
SELECT * FROM pods p WHERE p.current_node IS NOT NULL
CHECK p.controllable__node = p.current_node;

-- Pods of high priority first: a thousand of one priority weigh less than one of the next.
CREATE CONSTRAINT place_by_priority AS
SELECT * FROM pods p
MAXIMIZE (p.controllable__node IS NOT NULL) * (1 + p.priority * 1000) TIER 0;

CREATE CONSTRAINT few_preemptions AS
SELECT * FROM pods p WHERE p.current_node IS NOT NULL
MINIMIZE p.controllable__node IS NULL TIER 1;

CREATE VIEW app_zone AS
SELECT p.app, n.zone, count(*) AS pods FROM pods p
JOIN nodes n ON n.node_id = p.controllable__node
GROUP BY p.app, n.zone;

CREATE CONSTRAINT spread AS
SELECT * FROM app_zone z GROUP BY z.app
MINIMIZE max(z.pods) - min(z.pods) TIER 2;
