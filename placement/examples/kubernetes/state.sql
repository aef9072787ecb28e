-- A small cluster in the manner of Kubernetes. A pod's node may be NULL: it waits, or is preempted.
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT NOT NULL, cpu INTEGER NOT NULL, memory INTEGER NOT NULL);
CREATE TABLE node_labels (node_id TEXT, label TEXT, value TEXT, PRIMARY KEY (node_id, label));
CREATE TABLE node_taints (node_id TEXT, taint TEXT, PRIMARY KEY (node_id, taint));
CREATE TABLE pods (
    pod_id TEXT PRIMARY KEY,
    app TEXT NOT NULL,
    cpu INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    current_node TEXT,
    controllable__node TEXT NULL REFERENCES nodes (node_id)
);
CREATE TABLE pod_selectors (pod_id TEXT, label TEXT, value TEXT, PRIMARY KEY (pod_id, label));
CREATE TABLE pod_tolerations (pod_id TEXT, taint TEXT, PRIMARY KEY (pod_id, taint));
CREATE TABLE pod_affinity (pod_id TEXT, app TEXT, PRIMARY KEY (pod_id, app));       -- same zone as a pod of app
CREATE TABLE pod_anti_affinity (pod_id TEXT, app TEXT, PRIMARY KEY (pod_id, app));  -- no node with a pod of app

INSERT INTO nodes VALUES ('gpu1', 'a', 8, 32), ('n1', 'a', 4, 8), ('n2', 'b', 4, 8), ('n3', 'b', 4, 8);
INSERT INTO node_labels VALUES ('gpu1', 'accelerator', 'gpu'), ('n1', 'disk', 'ssd'), ('n2', 'disk', 'ssd');
INSERT INTO node_taints VALUES ('gpu1', 'gpu-only');
INSERT INTO pods VALUES
    ('batch-1', 'batch', 3, 2, 0, 'n1', 'n1'),
    ('batch-2', 'batch', 3, 2, 0, 'n2', 'n2'),
    ('web-1', 'web', 2, 2, 10, 'n3', 'n3'),
    ('web-2', 'web', 2, 2, 10, NULL, NULL),
    ('cache-1', 'cache', 1, 4, 10, NULL, NULL),
    ('train-1', 'train', 6, 16, 5, NULL, NULL);
INSERT INTO pod_selectors VALUES ('train-1', 'accelerator', 'gpu'), ('cache-1', 'disk', 'ssd');
INSERT INTO pod_tolerations VALUES ('train-1', 'gpu-only');
INSERT INTO pod_affinity VALUES ('cache-1', 'web');
INSERT INTO pod_anti_affinity VALUES ('web-1', 'web'), ('web-2', 'web');
