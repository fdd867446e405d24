//! `status`: in five seconds, is everything encrypted, and if not, what to do.

use std::time::Duration;

use overlay_cluster::identity::Role;

use super::{Context, Failure, Format, Outcome, human, listing::json, table};
use crate::api::{
    Time,
    status::{Encryption, State, Status},
};

/// An operator does not wait longer to hear that something hangs.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub async fn run(context: &mut Context, arguments: &Arguments) -> Result<Outcome, Failure> {
    let status = context.client.within(PATIENCE).status().await?;
    let text = match arguments.format {
        Format::Json => json(&status)?,
        Format::Table => render(&status, Time::now()),
    };
    context.terminal.print(text)?;
    let good = status.problems.is_empty()
        && status.encryption.closed.is_empty()
        && status.state == State::Member;
    Ok(if good {
        Outcome::Good
    } else {
        Outcome::Problem
    })
}

fn render(status: &Status, now: Time) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| text += &format!("{:<13}{value}\n", format!("{name}:"));
    let cluster = status.cluster.map_or(String::new(), |id| id.to_string());
    match status.state {
        State::Member => row("Cluster", &cluster),
        State::NoCluster => row(
            "Cluster",
            "none: make one with `overlay init`, or join one with `overlay join`",
        ),
        State::Locked => row("Cluster", "locked: unlock it with `overlay unlock`"),
        State::Joining => row("Cluster", "joining"),
        State::Evicted => row(
            "Cluster",
            &format!("{cluster}, which has removed this node: join again as a new node"),
        ),
        State::Unknown => row("Cluster", &format!("{cluster} (unknown state)")),
    }
    if let Some(node) = &status.node {
        row(
            "Node",
            &format!(
                "{} ({}, index {}, {})",
                node.name,
                node.role,
                node.index,
                node.availability.name()
            ),
        );
    }
    if status.state == State::Member {
        row("Encryption", &encryption(&status.encryption));
    }
    if let Some(epoch) = &status.epoch {
        let age = Duration::from_secs(epoch.age_seconds);
        row(
            "Epoch",
            &format!(
                "{}, {}, {} old; next rotation in {}",
                epoch.number,
                epoch.phase.name(),
                human::about(age),
                human::about(epoch.next_rotation.until(now))
            ),
        );
    }
    if let Some(managers) = &status.managers {
        let quorum = if managers.quorum {
            ""
        } else {
            "; NO QUORUM: traffic goes on, nothing can be changed"
        };
        // Workers do not know who leads, and need not.
        let is_manager = status
            .node
            .as_ref()
            .is_some_and(|node| node.role == Role::Manager);
        let leader = match &managers.leader {
            Some(leader) => format!(", leader {leader}"),
            None if is_manager => ", no leader".into(),
            None => String::new(),
        };
        row(
            "Managers",
            &format!(
                "{} of {} reachable{leader}{quorum}",
                managers.reachable, managers.total
            ),
        );
        let nodes = &status.nodes;
        let mut others = String::new();
        for (number, word) in [(nodes.down, "down"), (nodes.drained, "drained")] {
            if number > 0 {
                others += &format!(", {number} {word}");
            }
        }
        row(
            "Nodes",
            &format!("{} of {} ready{others}", nodes.ready, nodes.total),
        );
        row(
            "Endpoints",
            &format!(
                "{} here, {} on other nodes",
                status.endpoints.local, status.endpoints.remote
            ),
        );
    }
    row("Agent", &format!("version {}", status.version));
    for peer in &status.encryption.closed {
        text += &format!("closed: {}: {}\n", peer.name, peer.why);
    }
    if !status.drops.is_empty() {
        let rows: Vec<[String; 5]> = status
            .drops
            .iter()
            .map(|drop| {
                [
                    drop.reason.clone(),
                    drop.direction.clone(),
                    drop.packets.to_string(),
                    drop.bytes.map_or("–".into(), human::bytes),
                    drop.text.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text += &table::columns(["DROPPED", "WHERE", "PACKETS", "BYTES", "MEANING"], &rows);
    }
    if !status.problems.is_empty() {
        text += "\nProblems:\n";
    }
    for problem in &status.problems {
        text += &format!("{}: {}\n", problem.severity.name(), problem.message);
        if !problem.remedy.is_empty() {
            text += &format!("  remedy: {}\n", problem.remedy);
        }
    }
    text
}

fn encryption(encryption: &Encryption) -> String {
    let Encryption {
        encrypted_networks,
        plain_networks,
        peers,
        open,
        cleartext_stopped,
        ..
    } = encryption;
    let networks = human::count(
        *encrypted_networks,
        "encrypted network",
        "encrypted networks",
    );
    let mut text = match (encrypted_networks, peers) {
        (0, _) => "no encrypted network has an endpoint here".to_owned(),
        (_, 0) => format!("{networks}, no other node shares one"),
        _ if open == peers => format!(
            "{networks}, {} open",
            if *peers == 1 {
                "the one peer is".into()
            } else {
                format!("all {peers} peers are")
            }
        ),
        _ => format!("{networks}, only {open} of {peers} peers are open; the others get nothing"),
    };
    if !plain_networks.is_empty() {
        text += &format!("; NOT ENCRYPTED by choice: {}", plain_networks.join(", "));
    }
    if *cleartext_stopped > 0 {
        text += &format!(
            "; {} stopped",
            human::count(
                usize::try_from(*cleartext_stopped).unwrap_or(usize::MAX),
                "cleartext packet",
                "cleartext packets"
            )
        );
    }
    text
}
