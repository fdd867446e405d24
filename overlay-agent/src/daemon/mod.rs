//! The daemon: what holds the cluster core together with disks, sockets and clocks.
//!
//! [`run`] starts an [`agent`] and serves it at the [`api`]. The agent makes this host a node of a
//! cluster: its [`node`], its [`control`] connections over [`tls`], and on a manager its part of the
//! [`managers`]' log in a [`store`].

pub mod agent;
pub mod api;
pub mod command;
pub mod config;
pub mod control;
pub mod dns;
pub mod logging;
pub mod managers;
pub mod members;
pub mod node;
#[cfg(test)]
mod packaging;
pub mod renewal;
pub mod service;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

use std::sync::Arc;

use anyhow::Context as _;
use overlay_cluster::rotation;

use self::{
    agent::{Agent, Desktop, Options},
    api::{Access, Socket},
    command::Configured,
    config::Config,
    dns::Dns,
    service::{Asked, Service},
};

/// Runs the daemon until it is told to stop.
pub async fn run(mut configured: Configured) -> anyhow::Result<()> {
    let mut service = Service::start().context("watch for signals")?;
    let config = configured.config();
    let access =
        Access::with_group(config.api.group.as_str()).context("look the API's group up")?;
    let socket = Socket::bind(&config.api.socket, &access)
        .await
        .context("serve the local API")?;
    let dns = config.dns.enabled.then(|| Dns::start(&config.dns));
    let agent = Agent::start(options(config)?, dns).await;
    let server = api::Server::new(
        Arc::new(Desktop(agent.clone())),
        access,
        api::Limits::default(),
    );
    let server = tokio::spawn(server.serve(socket, service.stop()));
    service.ready("running");
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the agent runs");
    loop {
        match service.asked().await {
            Asked::Stop => break,
            Asked::Reload => {
                service.reloading();
                if configured.reload() {
                    agent.reload(configured.config());
                }
                service.ready("running");
            }
        }
    }
    service.stopping();
    tracing::info!("the agent stops; the data path stays");
    if let Err(error) = server.await {
        tracing::warn!(%error, "the local API did not end in order");
    }
    agent.stop().await;
    Ok(())
}

/// What the configuration says to the agent.
fn options(config: &Config) -> anyhow::Result<Options> {
    Ok(Options {
        directories: config.directories(),
        host: config.host_settings(),
        rotation: rotation::Settings::default(),
        name: config.node_name()?,
        listen: Some(config.control.listen).filter(|ip| !ip.is_unspecified()),
        port: config.control.port.get(),
    })
}
