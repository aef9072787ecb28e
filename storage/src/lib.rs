//! One node's durable state: log, memtable, value files, index, manifest.
