//! Running other programs with a time limit.

use std::{
    io::{Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// For what only asks or changes the kernel; generous, for emulated machines.
pub const QUICK: Duration = Duration::from_secs(30);

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it to its end, whatever its status. It is killed at the limit, which is an error.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    run_with_input(command, None, limit)
}

/// As [`run`]; an error unless it succeeded. Returns its standard output.
pub fn capture(command: &mut Command, limit: Duration) -> Result<String> {
    let output = run(command, limit)?;
    success(command, output)
}

/// As [`capture`] with a limit of [`QUICK`] and arguments as one string.
pub fn shell(program: &str, arguments: &str) -> Result<String> {
    capture(
        Command::new(program).args(arguments.split_whitespace()),
        QUICK,
    )
}

/// As [`capture`], with this on its standard input.
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    let output = run_with_input(command, Some(input), QUICK)?;
    success(command, output)
}

fn success(command: &Command, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "`{}` ended with {}: {}{}",
            display(command),
            output.status,
            output.stderr.trim(),
            output.stdout.trim()
        );
    }
    Ok(output.stdout)
}

/// As [`run`], with this on its standard input.
pub fn run_with_input(
    command: &mut Command,
    input: Option<&str>,
    limit: Duration,
) -> Result<Output> {
    let mut running = Running::start(command, input.is_some())?;
    if let (Some(text), Some(mut stdin)) = (input, running.child.stdin.take()) {
        stdin
            .write_all(text.as_bytes())
            .with_context(|| format!("write to `{}`", display(command)))?;
    }
    running.wait(limit)
}

/// A program in the background; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts it without input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::start(command, false)
    }

    fn start(command: &mut Command, input: bool) -> Result<Self> {
        let name = display(command);
        let mut child = command
            .stdin(if input { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{name}`"))?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        Ok(Self {
            child,
            name,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("look at a child")?.is_none())
    }

    /// Waits for its end; kills it at the limit, which is an error.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                Ok(None) => {
                    let _gone = self.child.kill();
                    let _reaped = self.child.wait();
                    let said = join(self.stderr.take());
                    bail!(
                        "`{}` not done after {} s, killed: {}",
                        self.name,
                        limit.as_secs(),
                        said.trim()
                    );
                }
                Err(error) => bail!("wait for `{}`: {error}", self.name),
            }
        };
        Ok(Output {
            status,
            stdout: join(self.stdout.take()),
            stderr: join(self.stderr.take()),
        })
    }

    /// Ends it with SIGKILL, and says what it had said.
    pub fn kill(mut self) -> Output {
        let _gone = self.child.kill();
        let status = self.child.wait().unwrap_or(ExitStatus::from_raw(9));
        Output {
            status,
            stdout: join(self.stdout.take()),
            stderr: join(self.stderr.take()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _closed = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn join(thread: Option<JoinHandle<String>>) -> String {
    thread
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default()
}

/// The command line, for messages.
pub fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_limit() {
        let started = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("sleep 60"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = shell("cat", "/nonexistent").unwrap_err().to_string();
        assert!(error.contains("cat /nonexistent") && error.contains("No such file"));
    }
}
