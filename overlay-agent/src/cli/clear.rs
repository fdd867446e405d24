use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::anyhow;

use super::{Failure, Outcome, report, stop::Stop};
use crate::{
    dataplane::{desired::Settings, reconcile},
    kernel::{
        bpf,
        host::{Directories, Host, HostError},
    },
    state::last_desired::LastDesired,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Do not ask: traffic stops and the endpoints' interfaces go
    #[arg(long)]
    yes: bool,
}

pub const YES: Arguments = Arguments { yes: true };

pub async fn run(directories: Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    if !arguments.yes && !confirmed()? {
        return Err(Failure::Input(anyhow!(
            "nothing done: say --yes to remove the data plane and stop its traffic"
        )));
    }
    let last = LastDesired::read(&directories.run)?;
    let settings = match &last {
        Some(last) => last.settings(),
        None => vec![Settings::default()],
    };
    let stop = Stop::watch()?;
    let mut host = open(&directories, &settings)?;
    let report = reconcile::clear(&mut host, || stop.requested()).await?;
    let outcome = report::print(&report, true);
    if outcome == Outcome::Good {
        LastDesired::remove(&directories.run)?;
    }
    Ok(outcome)
}

/// Programs that cannot be taken over (of another version, or this binary has none) are removed by
/// their pins alone; those that send go first.
fn open(directories: &Directories, settings: &[Settings]) -> Result<Host, HostError> {
    let opened = Host::open(directories.clone(), &settings[0], settings).and_then(|mut host| {
        host.take_over()?;
        Ok(host)
    });
    match opened {
        Err(HostError::Bpf(error @ bpf::BpfError::Locked { .. })) => Err(error.into()),
        Err(HostError::Bpf(error)) => {
            tracing::warn!(%error, "removing the pins without taking them over");
            bpf::clear(&directories.pins)?;
            Host::open(directories.clone(), &settings[0], settings)
        }
        opened => opened,
    }
}

fn confirmed() -> std::io::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Remove the overlay's data plane from this host? Its traffic stops. [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
