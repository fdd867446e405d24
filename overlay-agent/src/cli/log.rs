use std::time::Duration;

use log::{Log, Metadata, Record};

use super::{Failure, Outcome, loaded};
use crate::kernel::{bpf::Logs, host::Directories};

/// Between two looks at whether the programs were replaced.
const LOOK: Duration = Duration::from_secs(1);

/// Prints every line.
struct Print;

impl Log for Print {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        println!("{}", line(record));
    }

    fn flush(&self) {}
}

fn line(record: &Record<'_>) -> String {
    let place = match (record.file(), record.line()) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => record.target().to_owned(),
    };
    format!("{:<5} {place}: {}", record.level(), record.args())
}

pub async fn run(directories: &Directories) -> Result<Outcome, Failure> {
    let mut logs = Logs::open(&loaded(directories)?, Print)?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            more = logs.more() => more?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(Outcome::Good);
            }
            _ = look.tick() => {
                let pinned = loaded(directories)?;
                if !logs.is_of(&pinned) {
                    tracing::warn!("the programs were replaced");
                    logs = Logs::open(&pinned, Print)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    #[test]
    fn a_line_names_the_place_in_the_programs() {
        let mut record = Record::builder();
        record.level(Level::Info).target("overlay_ebpf");
        record.args(format_args!("drop reason=12"));
        assert_eq!(line(&record.build()), "INFO  overlay_ebpf: drop reason=12");
        record.file(Some("report.rs")).line(Some(71));
        assert_eq!(line(&record.build()), "INFO  report.rs:71: drop reason=12");
    }
}
