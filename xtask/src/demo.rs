//! The verb `demo`: an encrypted three-node cluster, here if the kernel has IPsec, else in the VM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::vm::{self, Guest, Job};
use crate::workspace::Workspace;
use crate::{build, command, say, setup, toolchain};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run on this machine's kernel even if it lacks IPsec: the encrypted
    /// network then stays closed, and the demo shows that
    #[arg(long)]
    host: bool,
    /// Leave the cluster in place and give a shell to look around
    #[arg(long)]
    keep: bool,
    /// VM kernel, where a VM is needed
    #[arg(long, value_enum, default_value_t = vm::Kernel::V6_12, value_name = "VERSION")]
    kernel: vm::Kernel,
    #[command(flatten)]
    build: build::Options,
}

/// Returns the demo's exit status: 0 if every check held.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<i32> {
    if !setup::is_root() {
        // All of it at once: who installs it will not want to come back for the next.
        let lacks: Vec<String> = [
            setup::ensure(workspace, setup::NETWORK),
            setup::ensure(workspace, setup::VM),
            toolchain::ensure(workspace).map(drop),
        ]
        .into_iter()
        .filter_map(|done| Some(format!("{:#}\n", done.err()?)))
        .collect();
        bail!(
            "{}the demo's network namespaces need root: run `sudo -E env PATH=\"$PATH\" cargo xtask demo`",
            lacks.concat()
        );
    }
    setup::ensure(workspace, setup::NETWORK)?;
    let overlay = build::run(workspace, arguments.build)?;
    let demo = build_demo(workspace)?;
    let mut words = vec![demo.to_string_lossy().into_owned()];
    if arguments.keep {
        words.push("--keep".to_owned());
    }
    if arguments.host {
        words.push("--without-ipsec".to_owned());
    }
    let here = arguments.host
        || {
            let able = has_ipsec(&overlay);
            if !able {
                say::note(format_args!(
                    "this kernel has no IPsec (`{} doctor` says more): the demo runs in a VM with Linux {}",
                    overlay.display(),
                    arguments.kernel
                ));
            }
            able
        };
    if here {
        say::step("running the demo on this kernel");
        let [program, rest @ ..] = words.as_slice() else {
            bail!("the demo has no program");
        };
        // It removes what it has made when it is told to end, and so when we end.
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", program])
            .args(rest)
            .env("OVERLAY_BIN", &overlay)
            .status()
            .with_context(|| format!("start {program}"))?;
        return Ok(status.code().unwrap_or(1));
    }
    let options = vm::Options::new(arguments.kernel);
    if arguments.keep {
        let line: Vec<String> = words.iter().map(|word| command::quote(word)).collect();
        let overlay = command::quote(&overlay.to_string_lossy());
        let line = format!("OVERLAY_BIN={overlay} {}", line.join(" "));
        return vm::interactive(workspace, &options, &line);
    }
    let mut job = Job::new(&words).env("OVERLAY_BIN", &overlay);
    if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        job = job.env("CLICOLOR_FORCE", "1");
    }
    Guest::boot(workspace, &options)?.run(&job, &mut vm::to_our_output)
}

/// Builds the program that the demo is.
fn build_demo(workspace: &Workspace) -> Result<PathBuf> {
    say::step("building the demo");
    command::run(
        command::cargo()
            .args(["build", "--package=overlay-tests", "--bin=overlay-demo"])
            // As the tests do, so that the library is built once for both.
            .arg("--features=kernel")
            .current_dir(&workspace.root),
    )?;
    Ok(workspace.overlay(false).with_file_name("overlay-demo"))
}

/// Whether an SA can be installed here: the doctor tries.
fn has_ipsec(overlay: &Path) -> bool {
    let output = Command::new(overlay)
        .args(["doctor", "--format", "json"])
        .output();
    let Ok(output) = output else { return false };
    let Ok(checks) = serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout) else {
        return false;
    };
    checks
        .iter()
        .any(|check| check["check"] == "IPsec" && check["verdict"] == "ok")
}
