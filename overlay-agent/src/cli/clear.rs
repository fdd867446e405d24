use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::anyhow;

use super::{Failure, Outcome, report, stop::Stop};
use crate::kernel::{host::Directories, removal};

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
    let stop = Stop::watch()?;
    let report = removal::remove(&directories, || stop.requested()).await?;
    Ok(report::print(&report, true))
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
