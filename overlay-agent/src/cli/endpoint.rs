use std::{net::IpAddr, path::PathBuf};

use anyhow::anyhow;
use clap::Subcommand;
use overlay_ebpf::abi::MacAddr;

use super::{
    Context, Failure, Format, Outcome, human,
    listing::{Filters, Listing, joined, json, labels},
    values,
};
use crate::api::endpoint::{
    DEFAULT_INTERFACE, Endpoint, EndpointAttach, EndpointQuery, Netns, RouteSpec,
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach a network namespace of this host to a network
    Attach(AttachArguments),
    /// Detach endpoints of this node
    #[command(visible_alias = "rm")]
    Detach(DetachArguments),
    /// List endpoints
    #[command(visible_alias = "list")]
    Ls(LsArguments),
    /// Show endpoints of this node in full
    Inspect(InspectArguments),
}

#[derive(Debug, clap::Args)]
#[group(id = "place", required = true, multiple = false)]
struct Place {
    /// Network namespace in /run/netns, as `ip netns` makes them
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// Network namespace of a process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Network namespace at a path, such as /var/run/docker/netns/…
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct AttachArguments {
    /// Network
    network: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    options: AttachOptions,
    /// Ask as an orchestrator: also for networks that are not attachable
    #[arg(long)]
    managed: bool,
}

/// What an endpoint is, with `endpoint attach` and `network connect`.
#[derive(Debug, clap::Args)]
pub struct AttachOptions {
    /// Address of the endpoint; for a family without one an address is chosen
    #[arg(long, visible_alias = "ip6", value_name = "ADDR", value_parser = values::address)]
    ip: Vec<IpAddr>,
    /// MAC address [default: made of the address]
    #[arg(long, visible_alias = "mac-address", value_name = "MAC", value_parser = values::mac)]
    mac: Option<MacAddr>,
    /// Name of the interface in the network namespace
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INTERFACE)]
    interface: String,
    /// Name of the endpoint, a DNS label [default: the name of the network namespace]
    #[arg(long)]
    name: Option<String>,
    /// Label of the endpoint, for rules of the network
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// Route over the interface, beside those to the network's subnets
    #[arg(long = "route", value_name = "NET[,via=ADDR]", value_parser = route)]
    routes: Vec<RouteSpec>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

fn route(text: &str) -> Result<RouteSpec, String> {
    let bad = || "no route: write NET or NET,via=ADDR, such as 10.1.0.0/16,via=10.0.9.1".to_owned();
    let (to, via) = match text.split_once(',') {
        None => (text, None),
        Some((to, via)) => {
            let via = via.strip_prefix("via=").ok_or_else(bad)?;
            (to, Some(via.parse().map_err(|_| bad())?))
        }
    };
    let to = match to {
        "default" => match via {
            Some(IpAddr::V6(_)) => "::/0",
            _ => "0.0.0.0/0",
        },
        net => net,
    };
    Ok(RouteSpec {
        to: to.parse().map_err(|_| bad())?,
        via,
    })
}

#[derive(Debug, clap::Args)]
pub struct DetachArguments {
    /// Network
    network: String,
    /// Endpoints
    #[arg(required = true)]
    endpoints: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct LsArguments {
    /// Only those of this network
    network: Option<String>,
    /// Those of other nodes too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
pub struct InspectArguments {
    /// Network
    network: String,
    /// Endpoints
    #[arg(required = true)]
    endpoints: Vec<String>,
}

pub async fn run(context: &mut Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Attach(arguments) => {
            let Place { netns, pid, path } = arguments.place;
            let netns = match (netns, pid, path) {
                (Some(name), ..) => Netns::Name(name),
                (_, Some(pid), _) => Netns::Pid(pid),
                (.., Some(path)) => Netns::Path(path),
                (None, None, None) => {
                    return Err(Failure::Input(anyhow!(
                        "no network namespace: say --netns, --pid or --path"
                    )));
                }
            };
            attach(
                context,
                arguments.network,
                netns,
                arguments.options,
                arguments.managed,
            )
            .await
        }
        Command::Detach(arguments) => {
            for name in &arguments.endpoints {
                context.client.detach(&arguments.network, name).await?;
                context.terminal.line(name)?;
            }
            Ok(Outcome::Good)
        }
        Command::Ls(arguments) => ls(context, arguments).await,
        Command::Inspect(arguments) => {
            let mut found = Vec::new();
            for name in &arguments.endpoints {
                found.push(context.client.endpoint(&arguments.network, name).await?);
            }
            context.terminal.print(json(&found)?)?;
            Ok(Outcome::Good)
        }
    }
}

pub async fn attach(
    context: &mut Context,
    network: String,
    netns: Netns,
    options: AttachOptions,
    managed: bool,
) -> Result<Outcome, Failure> {
    let format = options.format;
    let request = EndpointAttach {
        network,
        name: options.name,
        // The agent has another working directory.
        netns: match netns {
            Netns::Path(path) => Netns::Path(std::path::absolute(path)?),
            netns => netns,
        },
        interface: Some(options.interface),
        mac: options.mac,
        addresses: options.ip,
        routes: options.routes,
        labels: values::labels(&options.labels)?,
        managed,
    };
    // Its refusals need no agent.
    let checked = request.clone().into_request().map_err(Failure::input)?;
    if request.name.is_none() && !is_label(&checked.name) {
        return Err(Failure::Input(anyhow!(
            "the network namespace is named `{}`, which is no DNS label: give the endpoint a name (`--name`)",
            checked.name
        )));
    }
    let endpoint = context.client.attach(&request).await?;
    let text = match format {
        Format::Json => json(&endpoint)?,
        Format::Table => format!(
            "{}   {}   {}\n",
            endpoint.name,
            joined(&endpoint.addresses),
            endpoint.mac
        ),
    };
    context.terminal.print(text)?;
    match &endpoint.problem {
        None => Ok(Outcome::Good),
        Some(problem) => {
            context.terminal.note(format!("overlay: {problem}"))?;
            Ok(Outcome::Problem)
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

async fn ls(context: &mut Context, arguments: LsArguments) -> Result<Outcome, Failure> {
    let filters = &arguments.filters;
    filters.check(&["name", "node", "network", "label"])?;
    let query = EndpointQuery {
        network: arguments.network,
        all: arguments.all,
    };
    let mut endpoints = context.client.endpoints(&query).await?;
    endpoints.retain(|endpoint| {
        filters.takes("name", |part| endpoint.name.contains(part))
            && filters.takes("node", |node| endpoint.node == node)
            && filters.takes("network", |network| endpoint.network == network)
            && filters.take_labels(&endpoint.labels)
    });
    let outcome = arguments.listing.print(
        context,
        &endpoints,
        |endpoint| endpoint.name.clone(),
        [
            "NAME",
            "NETWORK",
            "ADDRESSES",
            "MAC",
            "NODE",
            "NAMESPACE",
            "STATE",
        ],
        |endpoint| {
            let Endpoint {
                network,
                name,
                node,
                mac,
                addresses,
                netns,
                problem,
                ..
            } = endpoint;
            [
                name.clone(),
                network.clone(),
                joined(addresses),
                mac.to_string(),
                node.clone(),
                netns.as_ref().map_or("–".into(), ToString::to_string),
                if problem.is_some() { "closed" } else { "open" }.into(),
            ]
        },
    )?;
    let closed: Vec<_> = endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint, endpoint.problem.as_ref()?)))
        .collect();
    if closed.is_empty() {
        return Ok(outcome);
    }
    let number = human::count(closed.len(), "endpoint is", "endpoints are");
    context
        .terminal
        .note(format!("overlay: {number} closed:"))?;
    for (endpoint, problem) in closed {
        let labels = labels(&endpoint.labels);
        let labels = if labels.is_empty() {
            labels
        } else {
            format!(" ({labels})")
        };
        context
            .terminal
            .note(format!("  {}{labels}: {problem}", endpoint.name))?;
    }
    Ok(Outcome::Problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_nets_with_a_next_hop_or_without() {
        let spec = |text: &str| {
            let spec = route(text)?;
            Ok::<_, String>((spec.to.to_string(), spec.via.map(|via| via.to_string())))
        };
        assert_eq!(spec("10.1.0.0/16"), Ok(("10.1.0.0/16".into(), None)));
        assert_eq!(
            spec("10.1.0.0/16,via=10.0.9.1"),
            Ok(("10.1.0.0/16".into(), Some("10.0.9.1".into())))
        );
        assert_eq!(
            spec("default,via=fd00::1"),
            Ok(("::/0".into(), Some("fd00::1".into())))
        );
        for bad in ["", "10.1.0.0", "10.1.0.0/16,10.0.9.1", "10.1.0.0/16,via=x"] {
            assert!(spec(bad).unwrap_err().contains("via=ADDR"), "{bad}");
        }
    }
}
