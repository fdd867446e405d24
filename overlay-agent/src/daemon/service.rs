//! The daemon as a service: what it is told by signals, and what it tells the service manager
//! (sd_notify(3)). Without a service manager the latter goes nowhere.

use std::{io, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

/// What the service is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// One per process. It is made before anything else, so that no signal is lost.
#[derive(Debug)]
pub struct Service {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    watchdog: Option<Interval>,
    stop: watch::Sender<bool>,
}

impl Service {
    /// Needs a tokio runtime.
    pub fn start() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            watchdog: sd_notify::watchdog_enabled().and_then(pace).map(|pace| {
                let mut watchdog = interval(pace);
                watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
                watchdog
            }),
            stop: watch::Sender::new(false),
        })
    }

    /// What is asked for next. To be polled by the main loop of the daemon: the service manager is told
    /// that the daemon lives only while this is waited for, so a loop that hangs is restarted.
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn asked(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop,
                _ = self.interrupt.recv() => return Asked::Stop,
                _ = self.hangup.recv() => return Asked::Reload,
                () = due(&mut self.watchdog) => tell(&[NotifyState::Watchdog]),
            }
        }
    }

    /// True once [`Self::stopping`] was called.
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// The daemon serves; also after [`Self::reloading`]. `status` is one line for people.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// A line for people in `systemctl status`.
    pub fn status(&self, status: &str) {
        tell(&[NotifyState::Status(&line(status))]);
    }

    /// The configuration is being read again; [`Self::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// No longer ready: everything that watches [`Self::stop`] ends.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
        self.stop.send_replace(true);
    }
}

/// A third of what the service manager waits for.
fn pace(timeout: Duration) -> Option<Duration> {
    Some(timeout / 3).filter(|pace| !pace.is_zero())
}

async fn due(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(watchdog) => {
            watchdog.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// One line: each line of a notification is an assignment.
fn line(status: &str) -> String {
    status.replace(|c: char| c.is_control(), " ")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager {state:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_cannot_hold_another_assignment() {
        assert_eq!(line("2 nodes\nMAINPID=1\0"), "2 nodes MAINPID=1 ");
    }

    #[test]
    fn watchdog_is_told_three_times_in_its_timeout() {
        assert_eq!(pace(Duration::from_secs(30)), Some(Duration::from_secs(10)));
        assert_eq!(pace(Duration::ZERO), None);
    }
}
