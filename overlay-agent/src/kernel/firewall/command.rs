//! Runs a firewall command.

use std::{env, ffi::OsString, io, process::Stdio};

use tokio::{io::AsyncWriteExt as _, process::Command};

use super::Error;

/// What a command printed, and whether it succeeded.
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// Runs `program` in the calling thread's network namespace; `None` if there is no such program.
pub(super) async fn run(
    program: &'static str,
    arguments: &[&str],
    input: &[u8],
) -> Result<Option<Output>, Error> {
    let failed = |error| Error::Run { program, error };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", path())
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await?;
        }
        Ok(())
    };
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed)?;
    match written {
        // A program that refuses early closes its input; its own words are the better error.
        Err(error) if output.status.success() => return Err(failed(error)),
        _ => {}
    }
    Ok(Some(Output {
        success: output.status.success(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    }))
}

/// Firewall programs stand in directories that are not on everyone's path.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
