//! The daemon: what holds the cluster core together with disks, sockets and clocks.

pub mod api;
pub mod control;
pub mod managers;
pub mod node;
pub mod members;
pub mod renewal;
pub mod command;
pub mod config;
pub mod control;
pub mod dns;
pub mod logging;
#[cfg(test)]
mod packaging;
pub mod service;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

use self::command::Configured;

/// Runs the daemon until it is told to stop.
pub async fn run(configured: Configured) -> anyhow::Result<()> {
    let _ = configured;
    anyhow::bail!("this build has no cluster yet: apply data planes with `overlay dataplane`")
}
