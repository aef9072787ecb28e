//! The Synod node: everything that touches a socket, a clock or a disk.
