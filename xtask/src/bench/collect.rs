//! Running `overlay-bench` and reading what it prints.

use std::fmt::Display;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use super::Plan;
use super::detail::{Detail, Report};
use super::record::{Record, Run};
use super::setting::Setting;
use crate::vm::{self, Guest, Job, Stream};
use crate::workspace::Workspace;
use crate::{command, say};

/// A setting takes minutes; this is far above that, and ends what hangs.
const LIMIT: Duration = Duration::from_secs(3600);
/// A load prints when it is done, and none takes longer than this, emulated on a busy machine.
const SILENCE: Duration = Duration::from_secs(240);

/// Runs the plan.
pub struct Collector<'a> {
    pub workspace: &'a Workspace,
    pub bench: &'a Path,
    pub overlay: &'a Path,
    pub plan: &'a Plan,
}

impl Collector<'_> {
    /// Adds the runs to the record, those that count instructions twice.
    pub fn run(&self, record: &mut Record) {
        let (here, elsewhere): (Vec<Setting>, Vec<Setting>) =
            self.plan.settings.iter().partition(|s| s.is_here());
        for setting in here {
            if let Err(error) = self.setting_here(setting, record) {
                failed(record, &setting, &error);
            }
        }
        for &detail in &self.plan.details {
            if let Err(error) = self.detail_here(detail, record) {
                failed(record, &detail.name(), &error);
            }
        }
        let (counted, wall): (Vec<Setting>, Vec<Setting>) =
            elsewhere.into_iter().partition(|s| s.is_counted());
        let details = self.plan.details.as_slice();
        let again = self.plan.repeat && !counted.is_empty();
        let passes: [(&[Setting], &[Detail], bool); 3] = [
            (&counted, details, true),
            (if again { &counted } else { &[] }, &[], true),
            (&wall, &[], false),
        ];
        for (settings, details, icount) in passes {
            if settings.is_empty() && details.is_empty() {
                continue;
            }
            if let Err(error) = self.in_guest(settings, details, icount, record) {
                failed(record, &"the VM", &error);
            }
        }
    }

    fn setting_here(&self, setting: Setting, record: &mut Record) -> Result<()> {
        say::step(format_args!("{} ({setting})", setting.title()));
        let words = self.words(setting);
        let said = self.here(&words)?;
        keep_notes(&said.err, setting, record);
        record.runs.push(Run {
            setting,
            kernel: said.kernel,
            command: shown(&words),
            samples: parse(&said.out)?,
        });
        Ok(())
    }

    fn detail_here(&self, detail: Detail, record: &mut Record) -> Result<()> {
        say::step(format_args!("{}, running kernel", detail.title()));
        let words = [self.program(), detail.name().to_owned()];
        let said = self.here(&words)?;
        record.reports.push(Report {
            detail,
            counted: false,
            kernel: said.kernel,
            command: shown(&words),
            rows: parse(&said.out)?,
        });
        Ok(())
    }

    fn here(&self, words: &[String]) -> Result<Said> {
        // It removes what it has made when it is told to end, and so when we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
            .arg(LIMIT.as_secs().to_string())
            .args(words)
            .env("OVERLAY_BIN", self.overlay)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("start `{}`", command::display(&command)))?;
        let output = child.wait_with_output().context("wait for the benchmark")?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        eprint!("{err}");
        if !output.status.success() {
            bail!("`{}` ended with {}", shown(words), output.status);
        }
        let kernel = command::capture(Command::new("uname").arg("-r"))?;
        Ok(Said {
            kernel: kernel.trim().to_owned(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err,
        })
    }

    /// All in one guest.
    fn in_guest(
        &self,
        settings: &[Setting],
        details: &[Detail],
        icount: bool,
        record: &mut Record,
    ) -> Result<()> {
        let options = vm::Options {
            icount,
            timeout: LIMIT,
            ..vm::Options::new(self.plan.kernel)
        };
        let mut guest = Guest::boot(self.workspace, &options)?;
        for &detail in details {
            let Some(arguments) = detail.counted() else {
                continue;
            };
            let _timed = say::timed(format_args!("{}, VM, instructions", detail.title()));
            let mut words = vec![self.program()];
            words.extend(arguments.iter().map(|&word| word.to_owned()));
            match self.ask(&mut guest, &words).and_then(|said| {
                let rows = parse(&said.out)?;
                Ok((said.kernel, rows))
            }) {
                Ok((kernel, rows)) => record.reports.push(Report {
                    detail,
                    counted: true,
                    kernel,
                    command: shown(&words),
                    rows,
                }),
                Err(error) => failed(record, &detail.name(), &error),
            }
        }
        for &setting in settings {
            let _timed = say::timed(format_args!("{} ({setting})", setting.title()));
            let words = self.words(setting);
            match self.ask(&mut guest, &words) {
                Ok(said) => {
                    keep_notes(&said.err, setting, record);
                    record.runs.push(Run {
                        setting,
                        kernel: said.kernel,
                        command: shown(&words),
                        samples: parse(&said.out)?,
                    });
                }
                Err(error) => failed(record, &setting, &error),
            }
        }
        Ok(())
    }

    fn ask(&self, guest: &mut Guest, words: &[String]) -> Result<Said> {
        let kernel = guest.capture(&Job::new(["uname", "-r"]))?;
        let job = Job::new(words)
            .env("OVERLAY_BIN", self.overlay)
            .silence(SILENCE);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = guest.run(&job, &mut |stream, bytes| match stream {
            Stream::Out => out.extend_from_slice(bytes),
            Stream::Err => {
                err.extend_from_slice(bytes);
                vm::to_our_output(stream, bytes);
            }
        })?;
        if status != 0 {
            bail!("`{}` ended with status {status} in the VM", shown(words));
        }
        Ok(Said {
            kernel: kernel.trim().to_owned(),
            out: String::from_utf8_lossy(&out).into_owned(),
            err: String::from_utf8_lossy(&err).into_owned(),
        })
    }

    fn program(&self) -> String {
        self.bench.to_string_lossy().into_owned()
    }

    fn words(&self, setting: Setting) -> Vec<String> {
        let Plan {
            loads,
            competitors,
            rounds,
            duration,
            counted_rounds,
            counted_duration,
            ..
        } = self.plan;
        let (rounds, duration) = if setting.is_counted() {
            (counted_rounds, counted_duration)
        } else {
            (rounds, duration)
        };
        let mut words = vec![
            self.program(),
            "traffic".to_owned(),
            format!("--cipher={}", setting.cipher()),
            format!("--rounds={rounds}"),
            format!("--duration={duration}"),
        ];
        for (option, names) in [("loads", loads), ("competitors", competitors)] {
            if !names.is_empty() {
                words.push(format!("--{option}={}", names.join(",")));
            }
        }
        words
    }
}

/// The other settings go on; the verb fails at its end.
fn failed(record: &mut Record, what: &dyn Display, error: &Error) {
    say::warn(format_args!("{what}: {error:#}"));
    record.failures.push(format!("{what}: {error:#}"));
}

/// Who could not take part, and which driver encrypted, is part of the result.
fn keep_notes(said: &str, setting: Setting, record: &mut Record) {
    for note in said.lines().filter_map(|line| line.strip_prefix("note: ")) {
        let note = format!("{setting}: {note}");
        if !record.notes.contains(&note) {
            record.notes.push(note);
        }
    }
}

/// What a verb said, and on which kernel.
struct Said {
    kernel: String,
    out: String,
    err: String,
}

/// The path of the program is this machine's own.
fn shown(words: &[String]) -> String {
    let arguments = words.get(1..).unwrap_or_default();
    format!("overlay-bench {}", arguments.join(" "))
}

/// A line of JSON each; an error if there is none.
fn parse<T: serde::de::DeserializeOwned>(out: &str) -> Result<Vec<T>> {
    let rows: Vec<T> = out
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("read the line `{line}` of the benchmark"))
        })
        .collect::<Result<_>>()?;
    if rows.is_empty() {
        bail!("the benchmark measured nothing");
    }
    Ok(rows)
}
