//! Shared pieces of the end-to-end tests.

pub mod lab;
pub mod testrun;
