//! `init`, `join` and `leave`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use overlay_cluster::{
    identity::{Role, token},
    log::{names::NodeName, settings::Settings},
};

use super::{Context, Failure, Outcome, secret_file, values};
use crate::api::{
    SecretText,
    cluster::{InitRequest, Initialised, JoinRequest, LeaveRequest, SubnetPool},
};

/// Where a node is, and what it is called.
#[derive(Debug, clap::Args)]
struct Place {
    /// Where the agent takes connections of other nodes [default: the first advertised address, port 7790]
    #[arg(long, visible_alias = "listen-addr", value_name = "ADDR[:PORT]", value_parser = values::listen)]
    listen: Option<SocketAddr>,
    /// Name of the node [default: the host's name]
    #[arg(long)]
    name: Option<NodeName>,
    /// Label of the node, for rules of networks
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
pub struct InitArguments {
    /// Addresses that other nodes reach: one, or one of IPv4 and one of IPv6
    #[arg(
        long,
        visible_alias = "advertise-addr",
        required = true,
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        value_parser = values::address
    )]
    advertise: Vec<IpAddr>,
    #[command(flatten)]
    place: Place,
    /// Ask an operator to unlock each manager after a restart
    #[arg(long)]
    autolock: bool,
    /// How often all keys change, 10m to 7d [default: 12h]
    #[arg(long, value_name = "DURATION", value_parser = values::interval)]
    key_rotation_interval: Option<Duration>,
    /// Where networks get subnets from [default: 10.0.0.0/8,size=24]
    #[arg(
        long = "default-subnet-pool",
        visible_alias = "default-addr-pool",
        value_name = "NET[,size=PREFIX]",
        value_parser = values::pool
    )]
    pools: Vec<SubnetPool>,
}

#[derive(Debug, clap::Args)]
pub struct JoinArguments {
    /// File with the join token, mode 0600, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Managers to join at; the first that answers is taken
    #[arg(required = true, value_name = "ADDRESS", value_parser = values::manager)]
    managers: Vec<values::Manager>,
    /// Addresses that other nodes reach [default: the one that reaches the manager]
    #[arg(
        long,
        visible_alias = "advertise-addr",
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        value_parser = values::address
    )]
    advertise: Vec<IpAddr>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub struct LeaveArguments {
    /// Leave also as a manager, with endpoints attached, or with no manager in reach
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub async fn init(context: &mut Context, arguments: InitArguments) -> Result<Outcome, Failure> {
    let InitArguments {
        advertise,
        place,
        autolock,
        key_rotation_interval,
        pools,
    } = arguments;
    values::check_place(&advertise, place.listen)?;
    if !pools.is_empty() {
        let settings = Settings {
            subnet_pools: pools.iter().copied().map(Into::into).collect(),
            ..Settings::default()
        };
        settings.check().map_err(Failure::input)?;
    }
    let made = context
        .client
        .init(&InitRequest {
            advertise,
            listen: place.listen,
            name: place.name,
            labels: values::labels(&place.labels)?,
            autolock,
            key_rotation_interval_seconds: key_rotation_interval.map(|interval| interval.as_secs()),
            subnet_pools: pools,
        })
        .await?;
    context.terminal.print(initialised(&made))?;
    Ok(Outcome::Good)
}

fn initialised(made: &Initialised) -> String {
    let node = &made.membership;
    let mut text = format!(
        "Cluster {} initialised: current node {} ({}) is now a manager.\n\n",
        node.cluster, node.name, node.node
    );
    text += &how_to_join(Role::Worker, &made.worker_token, &made.managers);
    text += "To add a manager, run `overlay token show manager` and follow the instructions.\n";
    if let Some(key) = &made.unlock_key {
        text += "\n";
        text += &how_to_unlock(key);
    }
    text
}

/// The command that adds a node. The token is no argument: everybody on a host reads those.
pub fn how_to_join(role: Role, token: &SecretText, managers: &[SocketAddr]) -> String {
    let mut at = String::new();
    for manager in managers.iter().take(3) {
        at += &format!(" {manager}");
    }
    format!(
        "To add a {role} to this cluster, run the following command on the new node and give it the token\n\
         on standard input:\n\n    overlay join --token-file -{at}\n\n    {}\n\n",
        token.expose()
    )
}

pub fn how_to_unlock(key: &SecretText) -> String {
    format!(
        "To unlock a manager after it restarts, run `overlay unlock` and provide the following key:\n\n    {}\n\n\
         Keep it in a password manager: without it a manager cannot be restarted.\n",
        key.expose()
    )
}

pub async fn join(context: &mut Context, arguments: JoinArguments) -> Result<Outcome, Failure> {
    let JoinArguments {
        token_file,
        managers,
        advertise,
        place,
    } = arguments;
    values::check_place(&advertise, place.listen)?;
    let labels = values::labels(&place.labels)?;
    let token = secret_file::read(&token_file, "Join token", &mut context.terminal)?;
    token.parse::<token::JoinToken>().map_err(Failure::input)?;
    let mut addresses = Vec::new();
    for manager in &managers {
        addresses.extend(manager.resolve().await?);
    }
    let joined = context
        .client
        .join(&JoinRequest {
            token: token.into(),
            managers: addresses,
            advertise,
            listen: place.listen,
            name: place.name,
            labels,
        })
        .await?;
    context.terminal.line(format!(
        "Node {} ({}) joined cluster {} as a {}.",
        joined.name, joined.node, joined.cluster, joined.role
    ))?;
    Ok(Outcome::Good)
}

pub async fn leave(context: &mut Context, arguments: &LeaveArguments) -> Result<Outcome, Failure> {
    context.terminal.confirm(
        arguments.yes,
        "This node leaves its cluster: its endpoints lose their networks.",
    )?;
    let force = arguments.force;
    context.client.leave(LeaveRequest { force }).await?;
    context.terminal.line("Node left the cluster.")?;
    Ok(Outcome::Good)
}
