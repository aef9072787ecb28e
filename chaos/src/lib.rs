//! Worlds, faults, workloads and checkers.
