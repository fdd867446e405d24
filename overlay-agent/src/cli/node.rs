use clap::Subcommand;
use overlay_cluster::{identity::Role, log::names::NodeName};

use super::{
    Context, Failure, Format, Outcome,
    listing::{Filters, Listing, joined, json, labels},
    values,
};
use crate::api::node::{Availability, ManagerStatus, Node, NodeUpdate};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(LsArguments),
    /// Show nodes in full
    Inspect(InspectArguments),
    /// Make nodes managers
    Promote(Nodes),
    /// Make managers workers
    Demote(Nodes),
    /// Give nodes no new endpoints; they keep what they have
    Drain(Nodes),
    /// Give nodes new endpoints again
    Activate(Nodes),
    /// Remove nodes that left or are down; with --force evict them, whatever they do
    #[command(visible_alias = "remove")]
    Rm(RmArguments),
    /// Change a node
    Update(UpdateArguments),
}

#[derive(Debug, clap::Args)]
pub struct Nodes {
    /// Nodes, by name, id or `self`
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
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
    /// Nodes, by name, id or `self`
    #[arg(value_name = "NODE", default_value = "self")]
    nodes: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// For people: the same as --format table
    #[arg(long)]
    pretty: bool,
}

#[derive(Debug, clap::Args)]
pub struct RmArguments {
    #[command(flatten)]
    nodes: Nodes,
    /// Evict: the nodes' keys are void for good, and all keys of the cluster change at once
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "change", required = true, multiple = true)]
pub struct Change {
    /// New name
    #[arg(long)]
    name: Option<NodeName>,
    /// Add a label, or change its value
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label)]
    label_add: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Whether it takes new endpoints
    #[arg(long, value_parser = ["active", "drain", "pause"])]
    availability: Option<String>,
    /// What it is
    #[arg(long, value_parser = ["worker", "manager"])]
    role: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct UpdateArguments {
    #[command(flatten)]
    change: Change,
    /// Node, by name, id or `self`
    node: String,
}

pub async fn run(context: &mut Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Ls(arguments) => ls(context, &arguments).await,
        Command::Inspect(arguments) => inspect(context, &arguments).await,
        Command::Promote(nodes) => {
            let done = "is now a manager of the cluster";
            update(context, &nodes, &role(Role::Manager), done).await
        }
        Command::Demote(nodes) => {
            let done = "is now a worker of the cluster";
            update(context, &nodes, &role(Role::Worker), done).await
        }
        Command::Drain(nodes) => {
            let done = "is drained: it gets no new endpoints";
            update(context, &nodes, &availability(Availability::Drain), done).await
        }
        Command::Activate(nodes) => {
            let done = "is active";
            update(context, &nodes, &availability(Availability::Active), done).await
        }
        Command::Rm(arguments) => rm(context, &arguments).await,
        Command::Update(arguments) => {
            let update = changes(&arguments.change)?;
            let node = context.client.update_node(&arguments.node, &update).await?;
            context.terminal.line(node.name)?;
            Ok(Outcome::Good)
        }
    }
}

fn role(role: Role) -> NodeUpdate {
    NodeUpdate {
        role: Some(role),
        ..NodeUpdate::default()
    }
}

fn availability(availability: Availability) -> NodeUpdate {
    NodeUpdate {
        availability: Some(availability),
        ..NodeUpdate::default()
    }
}

fn changes(change: &Change) -> Result<NodeUpdate, Failure> {
    let availability = match change.availability.as_deref() {
        None => None,
        Some("active") => Some(Availability::Active),
        Some("drain") => Some(Availability::Drain),
        Some(other) => {
            return Err(Failure::Input(anyhow::anyhow!(
                "availability `{other}` is not supported, since the overlay schedules nothing: use `drain`, which gives the node no new endpoints"
            )));
        }
    };
    if let Some((key, _)) = change
        .label_add
        .iter()
        .find(|(key, _)| change.label_rm.contains(key))
    {
        return Err(Failure::Input(anyhow::anyhow!(
            "label `{key}` is to be added and removed: say one of the two"
        )));
    }
    Ok(NodeUpdate {
        name: change.name.clone(),
        role: change
            .role
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(Failure::input)?,
        availability,
        labels_add: values::labels(&change.label_add)?,
        labels_remove: change.label_rm.clone(),
    })
}

async fn update(
    context: &mut Context,
    nodes: &Nodes,
    update: &NodeUpdate,
    done: &str,
) -> Result<Outcome, Failure> {
    for node in &nodes.nodes {
        let node = context.client.update_node(node, update).await?;
        context
            .terminal
            .line(format!("Node {} {done}.", node.name))?;
    }
    Ok(Outcome::Good)
}

async fn rm(context: &mut Context, arguments: &RmArguments) -> Result<Outcome, Failure> {
    let names = arguments.nodes.nodes.join(", ");
    let warning = if arguments.force {
        format!(
            "This evicts {names}: keys and certificates are void for good, join tokens and all keys of the cluster change at once."
        )
    } else {
        format!("This removes {names} from the cluster.")
    };
    context.terminal.confirm(arguments.yes, &warning)?;
    for node in &arguments.nodes.nodes {
        let removed = context.client.remove_node(node, arguments.force).await?;
        context.terminal.line(removed.name)?;
    }
    Ok(Outcome::Good)
}

async fn ls(context: &mut Context, arguments: &LsArguments) -> Result<Outcome, Failure> {
    let filters = &arguments.filters;
    filters.check(&["id", "name", "role", "label"])?;
    let mut nodes = context.client.nodes().await?;
    nodes.retain(|node| {
        filters.takes("id", |id| node.id.to_string().starts_with(id))
            && filters.takes("name", |part| node.name.as_str().contains(part))
            && filters.takes("role", |role| node.role.name() == role)
            && filters.take_labels(&node.labels)
    });
    arguments.listing.print(
        context,
        &nodes,
        |node| node.name.to_string(),
        [
            "ID",
            "NAME",
            "STATUS",
            "AVAILABILITY",
            "MANAGER STATUS",
            "ADDRESSES",
            "VERSION",
        ],
        |node| {
            let mut id = node.id.to_string();
            id.truncate(12);
            if node.is_self {
                id += " *";
            }
            [
                id,
                node.name.to_string(),
                node.status.name().into(),
                node.availability.name().into(),
                node.manager_status
                    .map_or(String::new(), |status| status.name().into()),
                joined(&node.vteps),
                node.software.clone(),
            ]
        },
    )
}

async fn inspect(context: &mut Context, arguments: &InspectArguments) -> Result<Outcome, Failure> {
    let mut nodes = Vec::new();
    for node in &arguments.nodes {
        nodes.push(context.client.node(node).await?);
    }
    let text = if arguments.pretty || arguments.format == Format::Table {
        nodes.iter().map(pretty).collect::<Vec<_>>().join("\n")
    } else {
        json(&nodes)?
    };
    context.terminal.print(text)?;
    Ok(Outcome::Good)
}

fn pretty(node: &Node) -> String {
    let mut rows = vec![
        ("ID", node.id.to_string()),
        ("Name", node.name.to_string()),
        ("Index", node.index.to_string()),
        ("Role", node.role.to_string()),
        ("Status", node.status.name().to_owned()),
        ("Availability", node.availability.name().to_owned()),
    ];
    if let Some(status) = node.manager_status {
        let status: ManagerStatus = status;
        rows.push(("Manager status", status.name().to_owned()));
    }
    rows.extend([
        ("Tunnel addresses", joined(&node.vteps)),
        ("Control address", node.control.to_string()),
        ("Labels", labels(&node.labels)),
        ("Joined", node.joined.to_string()),
        ("Version", node.software.clone()),
    ]);
    rows.iter()
        .map(|(name, value)| {
            format!("{:<18}{value}", format!("{name}:"))
                .trim_end()
                .to_owned()
                + "\n"
        })
        .collect()
}
