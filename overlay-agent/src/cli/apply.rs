use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::{Failure, Outcome, report, stop::Stop};
use crate::{
    dataplane::{
        desired::{DataPlane, Settings},
        file::{File, Format, keys::KeyEntry},
        reconcile::{self, Kernel as _, ReconcileError},
        validate,
    },
    kernel::host::{Directories, Host},
    state::{
        key_file,
        last_desired::{LastDesired, Record},
    },
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Desired data plane, TOML or JSON
    file: PathBuf,
    /// Show the steps and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not print each step
    #[arg(short, long)]
    quiet: bool,
}

pub async fn run(directories: Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let desired = read(&arguments.file)?;
    let (mut host, before) = open(&directories, &desired)?;
    if arguments.dry_run {
        return dry_run(&mut host, &desired).await;
    }
    let stop = Stop::watch()?;
    host.take_over()?;
    Record::new(&desired, &before).write(&directories.run)?;
    let report = match reconcile::reconcile(&mut host, &desired, || stop.requested()).await {
        Ok(report) => report,
        Err(error @ ReconcileError::Invalid(_)) => return Err(Failure::input(error)),
        Err(error) => return Err(error.into()),
    };
    if report.failed.is_empty() && !report.interrupted {
        Record::settled(&desired).write(&directories.run)?;
    }
    Ok(report::print(&report, !arguments.quiet))
}

/// The host to look at, which also knows the objects of the data plane that was applied last, and the settings by
/// which it does.
pub(super) fn open(
    directories: &Directories,
    desired: &DataPlane,
) -> Result<(Host, Vec<Settings>), Failure> {
    let last = LastDesired::read(&directories.run)?;
    let before = last.as_ref().map(LastDesired::settings).unwrap_or_default();
    let host = Host::open(directories.clone(), &desired.settings, &before)?;
    Ok((host, before))
}

/// The valid data plane of the file, with the keys that the file names.
pub(super) fn read(path: &Path) -> Result<DataPlane, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read {}", path.display()))
        .map_err(Failure::Input)?;
    let file = File::parse(&text, Format::of(path, &text))
        .with_context(|| format!("{}", path.display()))
        .map_err(Failure::Input)?;
    let keys: Vec<KeyEntry> = match &file.keys {
        Some(keys) => {
            let directory = path.parent().unwrap_or(Path::new(""));
            key_file::read(&directory.join(keys)).map_err(Failure::input)?
        }
        None => Vec::new(),
    };
    let desired = file
        .desired(&keys)
        .with_context(|| format!("{}", path.display()))
        .map_err(Failure::Input)?;
    validate::validate(&desired).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Input(anyhow!("{}:\n  {}", path.display(), lines.join("\n  ")))
    })?;
    Ok(desired)
}

async fn dry_run(host: &mut Host, desired: &DataPlane) -> Result<Outcome, Failure> {
    let facts = host.facts(desired).await?;
    let observed = host.observe().await?;
    let used = host.used_keys()?;
    let plan = reconcile::plan(desired, &facts, &observed, &used).map_err(|errors| {
        Failure::Input(anyhow!(
            "{}",
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        ))
    })?;
    for step in &plan.steps {
        println!("would {step}");
    }
    println!("{} changes to do", plan.steps.len());
    report::problems(&plan.problems);
    Ok(if plan.problems.iter().any(|problem| problem.closes) {
        Outcome::Problem
    } else {
        Outcome::Good
    })
}
