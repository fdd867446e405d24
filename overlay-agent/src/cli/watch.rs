use std::{
    future::pending,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Outcome, apply, report, stop::Stop};
use crate::{
    dataplane::{
        drift::Pace,
        reconcile::{ReconcileError, Report},
    },
    kernel::{
        host::Directories,
        keeper::{Keeper, Told, Unfinished, next_look},
        monitor::Monitor,
    },
    state::last_desired::Record,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Desired data plane, TOML or JSON
    file: PathBuf,
}

pub async fn run(directories: Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Before the first observation: what changes after it is heard of.
    let mut monitor = Monitor::open()?;
    let mut watch = Watch::start(directories, arguments.file.clone())?;

    let start = Instant::now();
    let mut pace = Pace::new(Duration::ZERO);
    let first = watch.check(&mut pace, start).await?;
    report::print(&first, true);
    println!("watching {}", arguments.file.display());

    let mut look_at = Instant::now() + next_look(Duration::ZERO);
    let at = tokio::time::Instant::from_std;
    // Between steps it has been seen already.
    while !watch.stop.requested() {
        tokio::select! {
            // The timers before the monitor: a flood of messages does not delay the check.
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => {
                watch.reload()?;
                pace.seen(start.elapsed());
            }
            () = tokio::time::sleep_until(at(start + pace.due())) => {
                if let Err(Failure::Input(error) | Failure::Host(error)) =
                    watch.check(&mut pace, start).await
                {
                    tracing::error!("cannot check the data path, trying again: {error:#}");
                }
            }
            () = tokio::time::sleep_until(at(look_at)) => {
                let began = Instant::now();
                if watch.keeper.differs().await {
                    pace.seen(start.elapsed());
                }
                look_at = Instant::now() + next_look(began.elapsed());
            }
            heard = monitor.changed() => {
                tracing::debug!(origin = %heard?, "heard of a change");
                pace.heard(start.elapsed());
            }
        }
    }
    println!("not watching any more; the data path stays");
    Ok(Outcome::Good)
}

struct Watch {
    directories: Directories,
    file: PathBuf,
    stop: Stop,
    keeper: Keeper,
    /// To be settled once a check has come to its end.
    unsettled: bool,
}

impl Watch {
    fn start(directories: Directories, path: PathBuf) -> Result<Self, Failure> {
        let desired = apply::read(&path)?;
        let (mut host, before) = apply::open(&directories, &desired)?;
        let stop = Stop::watch()?;
        host.take_over()?;
        Record::new(&desired, &before).write(&directories.run)?;
        Ok(Self {
            directories,
            file: path,
            stop,
            keeper: Keeper::new(host, desired),
            unsettled: true,
        })
    }

    /// Reads the file again. One that makes no sense changes nothing.
    fn reload(&mut self) -> Result<(), Failure> {
        let desired = match apply::read(&self.file) {
            Ok(read) => read,
            Err(Failure::Input(error) | Failure::Host(error)) => {
                tracing::error!("the data path stays as it is: {error:#}");
                return Ok(());
            }
        };
        let (host, before) = apply::open(&self.directories, &desired)?;
        self.keeper.reopen(host, desired)?;
        Record::new(self.keeper.desired(), &before).write(&self.directories.run)?;
        tracing::warn!("read {} again", self.file.display());
        self.unsettled = true;
        Ok(())
    }

    /// Observes everything, says what others changed, and repairs it.
    async fn check(&mut self, pace: &mut Pace, start: Instant) -> Result<Report, Failure> {
        let stop = self.stop.clone();
        let checked = self
            .keeper
            .check_at(
                pace,
                start,
                pending(),
                || stop.requested(),
                &mut |told: Told| told.log(),
            )
            .await;
        let report = checked.map_err(failure)?;
        if self.unsettled && report.failed.is_empty() && !report.interrupted {
            self.unsettled = false;
            Record::settled(self.keeper.desired()).write(&self.directories.run)?;
        }
        Ok(report)
    }
}

fn failure(error: ReconcileError<Unfinished>) -> Failure {
    match error {
        error @ ReconcileError::Invalid(_) => Failure::input(error),
        error => error.into(),
    }
}
