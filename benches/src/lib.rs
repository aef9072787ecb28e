//! Workloads and peers for measuring.
