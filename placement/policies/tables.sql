-- The cluster's own tables. Decision columns are controllable__*; what they hold is the present value.
CREATE TABLE zones (zone TEXT PRIMARY KEY);
CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    zone TEXT NOT NULL,
    region TEXT NOT NULL,
    rack TEXT,
    disk TEXT,                           -- 'ssd', 'hdd'
    status TEXT NOT NULL DEFAULT 'up',   -- 'up', 'draining', 'down'
    cap_bytes INTEGER NOT NULL,
    cap_qps INTEGER NOT NULL,
    cap_replicas INTEGER NOT NULL
);
CREATE TABLE shards (
    shard_id INTEGER PRIMARY KEY,
    start_key TEXT,
    end_key TEXT,
    tenant TEXT,
    tag TEXT,
    bytes INTEGER NOT NULL,
    read_qps INTEGER NOT NULL,
    write_qps INTEGER NOT NULL,
    rf INTEGER NOT NULL,
    home_region TEXT,
    colo_group TEXT
);
CREATE TABLE replicas (
    shard_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    role TEXT NOT NULL DEFAULT 'voter',  -- 'voter', 'learner'
    current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id),
    PRIMARY KEY (shard_id, slot)
);
CREATE TABLE leaders (
    shard_id INTEGER PRIMARY KEY,
    current_leader TEXT,
    controllable__leader TEXT REFERENCES nodes (node_id)
);
CREATE TABLE moves (
    shard_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    src TEXT,
    dst TEXT,
    bytes_left INTEGER NOT NULL,
    PRIMARY KEY (shard_id, slot)
);
CREATE TABLE pins (
    shard_id INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    node TEXT NOT NULL,
    PRIMARY KEY (shard_id, slot)
);
CREATE TABLE policies (name TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL, sql TEXT NOT NULL);
