use std::time::Duration;

use anyhow::anyhow;
use clap::Subcommand;

use super::{Context, Failure, Format, Outcome, human, listing::json, table, values};
use crate::api::{
    Time,
    keys::{ClusterKeys, KeysStatus, PeerKeys, Phase, PolicyRequest},
};

/// How often a rotation that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the epoch, how far a rotation is, who lags and why, and the SAs with each peer
    Status(StatusArguments),
    /// Change all keys now
    Rotate(RotateArguments),
    /// Set how often all keys change, and how long a change takes
    Policy(PolicyArguments),
}

#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub struct RotateArguments {
    /// Return when the old keys are gone on all nodes
    #[arg(short, long)]
    wait: bool,
    /// Give up waiting then; the rotation goes on
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = values::duration)]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct PolicyArguments {
    /// From one rotation to the next, 10m to 7d
    #[arg(long, value_name = "DURATION", value_parser = values::interval)]
    interval: Option<Duration>,
    /// How long a rotation waits for nodes that are slow, before it goes on without them
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    deadline: Option<Duration>,
    /// How long the old keys are still received after all send in the new ones
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    grace: Option<Duration>,
}

pub async fn run(context: &mut Context, command: &Command) -> Result<Outcome, Failure> {
    match command {
        Command::Status(arguments) => status(context, arguments).await,
        Command::Rotate(arguments) => rotate(context, arguments).await,
        Command::Policy(arguments) => {
            let seconds = |of: Option<Duration>| of.map(|of| of.as_secs());
            let request = PolicyRequest {
                interval_seconds: seconds(arguments.interval),
                deadline_seconds: seconds(arguments.deadline),
                grace_seconds: seconds(arguments.grace),
            };
            let policy = context.client.set_key_policy(&request).await?;
            let words = |seconds| humantime::format_duration(Duration::from_secs(seconds));
            context.terminal.line(format!(
                "All keys change every {}. A rotation waits up to {} for slow nodes, and keeps the old keys for {}.",
                words(policy.interval_seconds),
                words(policy.deadline_seconds),
                words(policy.grace_seconds)
            ))?;
            Ok(Outcome::Good)
        }
    }
}

async fn status(context: &mut Context, arguments: &StatusArguments) -> Result<Outcome, Failure> {
    let keys = context.client.keys().await?;
    let text = match arguments.format {
        Format::Json => json(&keys)?,
        Format::Table => render(&keys, Time::now()),
    };
    context.terminal.print(text)?;
    let closed = keys.peers.iter().any(|peer| peer.sends.is_none());
    Ok(if closed || keys.cluster.is_none() {
        Outcome::Problem
    } else {
        Outcome::Good
    })
}

fn render(keys: &KeysStatus, now: Time) -> String {
    let mut text = String::new();
    match &keys.cluster {
        Some(cluster) => text += &of_cluster(cluster, now),
        None => text += "No manager can be reached: traffic goes on with the present keys.\n",
    }
    text.push('\n');
    let rows: Vec<[String; 8]> = keys.peers.iter().map(of_peer).collect();
    text += &table::columns(
        [
            "PEER", "STATE", "EPOCH", "SLOT", "LANES", "AGE", "BYTES", "SEQUENCE",
        ],
        &rows,
    );
    for peer in &keys.peers {
        if let Some(lag) = &peer.lag {
            text += &format!("{} {lag}\n", peer.name);
        }
    }
    text
}

fn of_cluster(cluster: &ClusterKeys, now: Time) -> String {
    let mut text = format!(
        "Epoch:          {} (incarnation {}, {})\n",
        cluster.epoch.number, cluster.epoch.incarnation, cluster.epoch.hash
    );
    let phase = match (&cluster.next, cluster.since) {
        (Some(next), Some(since)) => format!(
            "{} epoch {} for {}",
            cluster.phase.name(),
            next.number,
            human::about(since.age(now))
        ),
        (None, Some(since)) => format!(
            "{} for {}",
            cluster.phase.name(),
            human::about(since.age(now))
        ),
        (_, None) => cluster.phase.name().into(),
    };
    text += &format!("Phase:          {phase}\n");
    let age = Duration::from_secs(cluster.age_seconds);
    text += &format!("Age:            {}\n", human::about(age));
    text += &format!(
        "Next rotation:  in {} ({}), every {}\n",
        human::about(cluster.next_rotation.until(now)),
        cluster.next_rotation,
        humantime::format_duration(Duration::from_secs(cluster.interval_seconds))
    );
    text += &format!(
        "Ready:          {} of {} live nodes\n",
        cluster.staged, cluster.live
    );
    for laggard in &cluster.laggards {
        let blamed = match laggard.blamed_by {
            0 => String::new(),
            by => format!(
                " ({} for it)",
                human::count(by as usize, "node waits", "nodes wait")
            ),
        };
        text += &format!("  {}: {}{blamed}\n", laggard.name, laggard.reason);
    }
    text
}

fn of_peer(peer: &PeerKeys) -> [String; 8] {
    let name = peer.name.clone();
    match &peer.sends {
        None => {
            let none = || String::from("–");
            [
                name,
                "closed".into(),
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
            ]
        }
        Some(sends) => [
            name,
            "open".into(),
            sends.epoch.to_string(),
            sends.slot.to_string(),
            sends.lanes.to_string(),
            human::about(Duration::from_secs(sends.age_seconds)),
            human::bytes(sends.bytes),
            human::share(sends.sequence_share),
        ],
    }
}

async fn rotate(context: &mut Context, arguments: &RotateArguments) -> Result<Outcome, Failure> {
    let begun = context.client.rotate_keys().await?;
    let target = begun.epoch.number;
    if !arguments.wait {
        context.terminal.line(format!(
            "Rotation to epoch {target} has begun: `overlay keys status` shows how far it is."
        ))?;
        return Ok(Outcome::Good);
    }
    let waiting = follow(context, target);
    match tokio::time::timeout(arguments.timeout, waiting).await {
        Ok(done) => done,
        Err(_) => Err(Failure::Host(anyhow!(
            "the rotation to epoch {target} was not over after {}: it goes on, `overlay keys status` shows who lags",
            humantime::format_duration(arguments.timeout)
        ))),
    }
}

/// Tells each phase until the rotation is over.
async fn follow(context: &mut Context, target: u32) -> Result<Outcome, Failure> {
    let mut told = None;
    loop {
        // A manager that hands over the lead is no reason to stop looking.
        if let Some(cluster) = context.client.keys().await?.cluster {
            let epoch = cluster.epoch.number;
            if epoch > target || (epoch == target && cluster.phase == Phase::Stable) {
                context.terminal.line(format!(
                    "Epoch {target} is active and the old keys are gone."
                ))?;
                return Ok(Outcome::Good);
            }
            let phase = cluster.phase;
            if phase != Phase::Stable && told != Some(phase) {
                told = Some(phase);
                context.terminal.line(format!(
                    "{} epoch {target}: {} of {} live nodes ready",
                    phase.name(),
                    cluster.staged,
                    cluster.live
                ))?;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
