//! Declared placement: SQL policies, solved, after DCM (OSDI 2020).
