//! Shared pieces of the end-to-end tests.

pub mod demo;
pub mod hostile;
pub mod lab;
pub mod testrun;
