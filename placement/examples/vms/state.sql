-- Virtual machines on hosts, unevenly. A move is a live migration.
CREATE TABLE hosts (host TEXT PRIMARY KEY, cpu INTEGER NOT NULL, memory INTEGER NOT NULL);
CREATE TABLE vms (vm TEXT PRIMARY KEY, cpu INTEGER NOT NULL, memory INTEGER NOT NULL, current_host TEXT, controllable__host TEXT REFERENCES hosts (host));
INSERT INTO hosts VALUES ('h0', 1000, 256), ('h1', 1000, 256), ('h2', 1000, 256), ('h3', 1000, 256);
INSERT INTO vms VALUES
    ('vm00', 39, 8, 'h0', 'h0'),
    ('vm01', 29, 16, 'h1', 'h1'),
    ('vm02', 94, 4, 'h0', 'h0'),
    ('vm03', 47, 4, 'h2', 'h2'),
    ('vm04', 73, 4, 'h0', 'h0'),
    ('vm05', 90, 8, 'h0', 'h0'),
    ('vm06', 92, 4, 'h0', 'h0'),
    ('vm07', 100, 16, 'h3', 'h3'),
    ('vm08', 27, 16, 'h1', 'h1'),
    ('vm09', 26, 4, 'h1', 'h1'),
    ('vm10', 37, 8, 'h0', 'h0'),
    ('vm11', 89, 4, 'h0', 'h0'),
    ('vm12', 91, 16, 'h1', 'h1'),
    ('vm13', 94, 16, 'h0', 'h0'),
    ('vm14', 67, 4, 'h1', 'h1'),
    ('vm15', 28, 16, 'h1', 'h1'),
    ('vm16', 46, 8, 'h0', 'h0'),
    ('vm17', 74, 8, 'h1', 'h1'),
    ('vm18', 78, 8, 'h1', 'h1'),
    ('vm19', 43, 16, 'h0', 'h0'),
    ('vm20', 30, 16, 'h2', 'h2'),
    ('vm21', 83, 8, 'h0', 'h0'),
    ('vm22', 56, 16, 'h1', 'h1'),
    ('vm23', 35, 16, 'h3', 'h3');
