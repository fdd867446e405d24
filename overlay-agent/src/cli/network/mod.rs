//! `network`: the words and flags of `docker network`.

mod create;

use std::time::Duration;

use anyhow::anyhow;
use clap::Subcommand;

use super::{
    Context, Failure, Format, Outcome,
    endpoint::{self, AttachOptions},
    human,
    listing::{self, Filters, Listing, joined, json, labels},
    table, values,
};
use crate::api::{
    Code, Time,
    client::ClientError,
    endpoint::{Endpoint, EndpointQuery, Netns},
    network::{NetworkDetail, PruneRequest},
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network
    Create(Box<create::Arguments>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArguments),
    /// Show networks in full
    Inspect(InspectArguments),
    /// Remove networks without endpoints
    #[command(visible_alias = "remove")]
    Rm(RmArguments),
    /// Connect a network namespace of this host to a network: the same as `endpoint attach`
    Connect(Box<ConnectArguments>),
    /// Disconnect a network namespace of this host from a network
    Disconnect(DisconnectArguments),
    /// Remove all networks without endpoints
    Prune(PruneArguments),
}

#[derive(Debug, clap::Args)]
pub struct LsArguments {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    /// Networks, by name or VNI
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub struct RmArguments {
    /// Networks, by name or VNI
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Do not mind networks that are not there
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct ConnectArguments {
    #[command(flatten)]
    options: AttachOptions,
    /// Network
    network: String,
    /// Network namespace: a name in /run/netns, `pid:PID`, or a path
    #[arg(value_name = "CONTAINER", value_parser = netns)]
    container: Netns,
    /// Another name of the endpoint
    #[arg(long, hide = true, value_parser = unsupported_alias)]
    alias: Option<String>,
    /// A link to another container
    #[arg(long, hide = true, value_parser = unsupported_link)]
    link: Option<String>,
}

fn unsupported_alias(_: &str) -> Result<String, String> {
    Err("an endpoint has one name: say --name".into())
}

fn unsupported_link(_: &str) -> Result<String, String> {
    Err("links are not supported: endpoints find each other by name".into())
}

#[derive(Debug, clap::Args)]
pub struct DisconnectArguments {
    /// Network
    network: String,
    /// Network namespace, as for `connect`, or name of the endpoint
    container: String,
    /// Do not mind if it is not connected
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct PruneArguments {
    /// Only those that match: `until=24h` (made so long ago), `label=KEY=VALUE`
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = listing::filter)]
    filters: Vec<(String, String)>,
    /// Do not ask
    #[arg(short, long, visible_alias = "force", visible_short_alias = 'f')]
    yes: bool,
}

/// A container as docker names one: here, its network namespace.
fn netns(text: &str) -> Result<Netns, String> {
    if text.starts_with('/') || text.starts_with("./") {
        return Ok(Netns::Path(text.into()));
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        return match pid.parse() {
            Ok(pid) if pid > 0 => Ok(Netns::Pid(pid)),
            _ => Err("no process: write pid:NUMBER".into()),
        };
    }
    if text.is_empty() || text.contains('/') {
        return Err("no network namespace: write a name in /run/netns, pid:PID, or a path".into());
    }
    Ok(Netns::Name(text.to_owned()))
}

pub async fn run(context: &mut Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Create(arguments) => create::run(context, *arguments).await,
        Command::Ls(arguments) => ls(context, &arguments).await,
        Command::Inspect(arguments) => inspect(context, &arguments).await,
        Command::Rm(arguments) => rm(context, &arguments).await,
        Command::Connect(arguments) => {
            let ConnectArguments {
                options,
                network,
                container,
                ..
            } = *arguments;
            endpoint::attach(context, network, container, options, false).await
        }
        Command::Disconnect(arguments) => disconnect(context, &arguments).await,
        Command::Prune(arguments) => prune(context, &arguments).await,
    }
}

async fn ls(context: &mut Context, arguments: &LsArguments) -> Result<Outcome, Failure> {
    let filters = &arguments.filters;
    filters.check(&[
        "name",
        "id",
        "driver",
        "scope",
        "label",
        "encrypted",
        "attachable",
    ])?;
    let mut networks = context.client.networks().await?;
    let is = |wanted: &str, holds: bool| wanted == if holds { "true" } else { "false" };
    networks.retain(|network| {
        filters.takes("name", |part| network.name.as_str().contains(part))
            && filters.takes("id", |id| network.vni.to_string() == id)
            && filters.takes("driver", |driver| driver == DRIVER)
            && filters.takes("scope", |scope| scope == SCOPE)
            && filters.takes("encrypted", |wanted| is(wanted, network.encrypted))
            && filters.takes("attachable", |wanted| is(wanted, network.attachable))
            && filters.take_labels(&network.labels)
    });
    arguments.listing.print(
        context,
        &networks,
        |network| network.name.to_string(),
        [
            "VNI",
            "NAME",
            "DRIVER",
            "SCOPE",
            "ENCRYPTED",
            "ATTACHABLE",
            "SUBNETS",
        ],
        |network| {
            [
                network.vni.to_string(),
                network.name.to_string(),
                DRIVER.into(),
                SCOPE.into(),
                network.encrypted.to_string(),
                network.attachable.to_string(),
                joined(network.subnets.iter().map(|subnet| subnet.subnet)),
            ]
        },
    )
}

/// The only one.
const DRIVER: &str = "overlay";
const SCOPE: &str = "cluster";

async fn inspect(context: &mut Context, arguments: &InspectArguments) -> Result<Outcome, Failure> {
    let mut networks = Vec::new();
    for network in &arguments.networks {
        networks.push(context.client.network(network).await?);
    }
    let text = match arguments.format {
        Format::Json => json(&networks)?,
        Format::Table => {
            let now = Time::now();
            let texts: Vec<String> = networks.iter().map(|detail| pretty(detail, now)).collect();
            texts.join("\n")
        }
    };
    context.terminal.print(text)?;
    Ok(Outcome::Good)
}

fn pretty(detail: &NetworkDetail, now: Time) -> String {
    let network = &detail.network;
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        text += (format!("{:<14}{value}", format!("{name}:"))).trim_end();
        text.push('\n');
    };
    row("Name", network.name.to_string());
    row("VNI", network.vni.to_string());
    row("Encrypted", network.encrypted.to_string());
    row("Attachable", network.attachable.to_string());
    for subnet in &network.subnets {
        row(
            "Subnet",
            format!(
                "{} gateway {} range {}",
                subnet.subnet, subnet.gateway, subnet.ip_range
            ),
        );
    }
    row(
        "MTU",
        network
            .mtu
            .map_or("of the underlay".into(), |mtu| mtu.to_string()),
    );
    row("Constraints", joined(&network.rules));
    row("Labels", labels(&network.labels));
    row(
        "Created",
        format!("{} ago", human::about(network.created.age(now))),
    );
    text.push('\n');
    let rows: Vec<[String; 4]> = detail
        .endpoints
        .iter()
        .map(|endpoint| {
            [
                endpoint.name.clone(),
                endpoint.node.clone(),
                joined(&endpoint.addresses),
                endpoint.mac.to_string(),
            ]
        })
        .collect();
    text += &table::columns(["ENDPOINT", "NODE", "ADDRESSES", "MAC"], &rows);
    text
}

async fn rm(context: &mut Context, arguments: &RmArguments) -> Result<Outcome, Failure> {
    context.terminal.confirm(
        arguments.yes,
        &format!("This removes {}.", arguments.networks.join(", ")),
    )?;
    for network in &arguments.networks {
        match context.client.remove_network(network).await {
            Ok(_) => context.terminal.line(network)?,
            Err(error) if arguments.force && error.code() == Some(Code::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Outcome::Good)
}

async fn disconnect(
    context: &mut Context,
    arguments: &DisconnectArguments,
) -> Result<Outcome, Failure> {
    let query = EndpointQuery {
        network: Some(arguments.network.clone()),
        all: false,
    };
    let endpoints = match context.client.endpoints(&query).await {
        Ok(endpoints) => endpoints,
        Err(ClientError::Refused(error)) if arguments.force && error.code == Code::NotFound => {
            return Ok(Outcome::Good);
        }
        Err(error) => return Err(error.into()),
    };
    let wanted = netns(&arguments.container).ok();
    let in_it = |endpoint: &&Endpoint| {
        endpoint.local && endpoint.netns.is_some() && endpoint.netns == wanted
    };
    let named = endpoints
        .iter()
        .find(|endpoint| endpoint.local && endpoint.name == arguments.container);
    let found: Vec<&Endpoint> = match named {
        Some(endpoint) => vec![endpoint],
        None => endpoints.iter().filter(in_it).collect(),
    };
    if found.is_empty() && !arguments.force {
        return Err(Failure::Host(anyhow!(
            "{} is not connected to network {} on this node: `overlay endpoint ls {}` lists what is",
            arguments.container,
            arguments.network,
            arguments.network
        )));
    }
    for endpoint in found {
        context
            .client
            .detach(&endpoint.network, &endpoint.name)
            .await?;
    }
    Ok(Outcome::Good)
}

async fn prune(context: &mut Context, arguments: &PruneArguments) -> Result<Outcome, Failure> {
    let filters = Filters::new(arguments.filters.clone());
    filters.check(&["until", "label"])?;
    let mut until = filters.values("until");
    let older: Option<Duration> = until
        .next()
        .map(values::duration)
        .transpose()
        .map_err(|why| Failure::Input(anyhow!("filter `until`: {why}")))?;
    if until.next().is_some() {
        return Err(Failure::Input(anyhow!(
            "filter `until` is given twice: give it once"
        )));
    }
    let wanted: Vec<(String, String)> = filters
        .values("label")
        .map(|label| match label.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Failure::Input(anyhow!(
                "filter `label={label}` has no value: write label=KEY=VALUE"
            ))),
        })
        .collect::<Result<_, _>>()?;
    let request = PruneRequest {
        older_than_seconds: older.map(|older| older.as_secs()),
        labels: values::labels(&wanted)?,
    };
    context.terminal.confirm(
        arguments.yes,
        "This will remove all networks that have no endpoint on any node.",
    )?;
    let pruned = context.client.prune_networks(&request).await?;
    if !pruned.networks.is_empty() {
        context.terminal.line("Deleted Networks:")?;
        for network in &pruned.networks {
            context.terminal.line(network)?;
        }
    }
    Ok(Outcome::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_a_name_a_process_or_a_path() {
        assert_eq!(netns("web-1"), Ok(Netns::Name("web-1".into())));
        assert_eq!(netns("pid:7"), Ok(Netns::Pid(7)));
        assert_eq!(
            netns("/proc/7/ns/net"),
            Ok(Netns::Path("/proc/7/ns/net".into()))
        );
        for bad in ["", "pid:", "pid:0", "pid:x", "a/b"] {
            assert!(netns(bad).is_err(), "{bad}");
        }
    }
}
