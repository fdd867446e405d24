//! Managers in one process: real stores on disk, real TLS on the loopback interface.

mod failures;
mod roster;
mod rotations;
mod world;
