//! Where the daemon's log goes.

use std::{
    env,
    io::{self, IsTerminal as _},
    os::fd::AsFd,
};

use tracing::Subscriber;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt,
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use super::config::{Level, Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "cannot reach the journal: {0}; set `format` in [log] to `json` or `text`, or start journald"
    )]
    Journal(#[source] io::Error),
    #[error("the process logs already")]
    Twice,
}

/// The log of this process; its level can change.
#[derive(Debug, Clone)]
pub struct Logging {
    level: Handle<Targets, Registry>,
}

impl Logging {
    /// Once per process.
    pub fn start(log: &Log) -> Result<Self, LogError> {
        let (level, handle) = reload::Layer::new(log.level.targets().clone());
        let output = output(resolve(log.format, &Surroundings::look()))?;
        tracing_subscriber::registry()
            .with(level)
            .with(output)
            .try_init()
            .map_err(|_| LogError::Twice)?;
        Ok(Self { level: handle })
    }

    /// Logs nothing; the level lives as long as the layer.
    #[cfg(test)]
    pub(super) fn unattached() -> (Self, reload::Layer<Targets, Registry>) {
        let (layer, level) = reload::Layer::new(Targets::new());
        (Self { level }, layer)
    }

    pub fn set_level(&self, level: &Level) {
        if self.level.reload(level.targets().clone()).is_err() {
            tracing::error!("the log level stays: the process logs no more");
        }
    }
}

/// What [`LogFormat::Auto`] goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Surroundings {
    /// `JOURNAL_STREAM`: device and inode of the stream that systemd connected to the journal.
    journal_stream: Option<String>,
    /// Device and inode of standard error.
    stderr: Option<(u64, u64)>,
    terminal: bool,
}

impl Surroundings {
    fn look() -> Self {
        let stderr = io::stderr();
        Self {
            journal_stream: env::var("JOURNAL_STREAM").ok(),
            stderr: rustix::fs::fstat(stderr.as_fd())
                .ok()
                .map(|stat| (stat.st_dev, stat.st_ino)),
            terminal: stderr.is_terminal(),
        }
    }

    /// Standard error is the journal's (systemd.exec(5), `$JOURNAL_STREAM`).
    fn is_journal(&self) -> bool {
        let stream = self.journal_stream.as_deref().and_then(|stream| {
            let (device, inode) = stream.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        stream.is_some() && stream == self.stderr
    }
}

fn resolve(format: LogFormat, surroundings: &Surroundings) -> LogFormat {
    match format {
        LogFormat::Auto if surroundings.is_journal() => LogFormat::Journal,
        LogFormat::Auto if surroundings.terminal => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        format => format,
    }
}

fn output<S>(format: LogFormat) -> Result<Box<dyn Layer<S> + Send + Sync>, LogError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    Ok(match format {
        LogFormat::Journal => tracing_journald::layer()
            .map_err(LogError::Journal)?
            .with_syslog_identifier("overlay-agent".to_owned())
            .boxed(),
        LogFormat::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(io::stderr)
            .boxed(),
        LogFormat::Text | LogFormat::Auto => fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .boxed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(journal_stream: Option<&str>, terminal: bool) -> LogFormat {
        let surroundings = Surroundings {
            journal_stream: journal_stream.map(str::to_owned),
            stderr: Some((9, 1234)),
            terminal,
        };
        resolve(LogFormat::Auto, &surroundings)
    }

    #[test]
    fn auto_is_the_journal_only_where_systemd_connected_standard_error_to_it() {
        assert_eq!(of(Some("9:1234"), false), LogFormat::Journal);
        // The variable is inherited by processes whose standard error is another.
        assert_eq!(of(Some("9:1235"), false), LogFormat::Json);
        assert_eq!(of(Some("9:1235"), true), LogFormat::Text);
        assert_eq!(of(Some("no numbers"), true), LogFormat::Text);
        assert_eq!(of(None, false), LogFormat::Json);
    }

    #[test]
    fn named_format_is_taken_as_it_is() {
        let anywhere = Surroundings::default();
        for format in [LogFormat::Journal, LogFormat::Json, LogFormat::Text] {
            assert_eq!(resolve(format, &anywhere), format);
        }
    }
}
