//! Needed tools: what they are, which Debian package brings each, and getting
//! them. On Debian as root they are installed; elsewhere the user is told
//! exactly what is missing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;
use crate::{bpf_linker, command, say, toolchain, vm};

/// Something a verb needs on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// What to look for: a program name, or an absolute path.
    pub probe: &'static [&'static str],
    /// Debian packages that bring it, the first known to apt being taken.
    pub packages: &'static [&'static str],
    /// What it is for, for the message when it is missing.
    pub purpose: &'static str,
}

/// What booting the test VM needs.
pub const VM: &[Tool] = &[
    Tool {
        probe: &["qemu-system-x86_64"],
        packages: &["qemu-system-x86"],
        purpose: "runs the test VM",
    },
    Tool {
        probe: &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"],
        packages: &["virtiofsd", "qemu-system-common"],
        purpose: "shares this machine's files with the test VM",
    },
    Tool {
        probe: &["depmod"],
        packages: &["kmod"],
        purpose: "loads kernel modules in the test VM",
    },
    Tool {
        probe: &["mount"],
        packages: &["mount"],
        purpose: "mounts this machine's files in the test VM",
    },
    Tool {
        probe: &["setpriv"],
        packages: &["util-linux"],
        purpose: "ends the test VM when xtask ends",
    },
];

/// What the kernel tests, the demo and the benchmarks run.
pub const NETWORK: &[Tool] = &[
    Tool {
        probe: &["ip"],
        packages: &["iproute2"],
        purpose: "links, namespaces, XFRM",
    },
    Tool {
        probe: &["tc"],
        packages: &["iproute2"],
        purpose: "filters of test links",
    },
    Tool {
        probe: &["bridge"],
        packages: &["iproute2"],
        purpose: "stock VXLAN peers of the tests",
    },
    Tool {
        probe: &["ss"],
        packages: &["iproute2"],
        purpose: "waits for listening sockets",
    },
    Tool {
        probe: &["nsenter"],
        packages: &["util-linux"],
        purpose: "runs programs in namespaces",
    },
    Tool {
        probe: &["unshare"],
        packages: &["util-linux"],
        purpose: "namespaces of the kernel tests",
    },
    Tool {
        probe: &["setpriv"],
        packages: &["util-linux"],
        purpose: "ends tests when xtask ends",
    },
    Tool {
        probe: &["sysctl"],
        packages: &["procps"],
        purpose: "compares settings before and after",
    },
    Tool {
        probe: &["modprobe"],
        packages: &["kmod"],
        purpose: "loads what the data plane needs",
    },
    Tool {
        probe: &["rmmod"],
        packages: &["kmod"],
        purpose: "tests without a module",
    },
    Tool {
        probe: &["nft"],
        packages: &["nftables"],
        purpose: "firewall rules of the tests",
    },
    Tool {
        probe: &["iptables-legacy"],
        packages: &["iptables"],
        purpose: "the firewall of hosts that have not moved to nftables",
    },
    Tool {
        probe: &["ethtool"],
        packages: &["ethtool"],
        purpose: "offloads of test links",
    },
    Tool {
        probe: &["tcpdump"],
        packages: &["tcpdump"],
        purpose: "captures of the underlay",
    },
    Tool {
        probe: &["iperf3"],
        packages: &["iperf3"],
        purpose: "traffic",
    },
    Tool {
        probe: &["ping"],
        packages: &["iputils-ping"],
        purpose: "traffic",
    },
    Tool {
        probe: &["bpftool"],
        packages: &["bpftool"],
        purpose: "inspects programs and maps",
    },
];

/// What the benchmark's competitors need besides.
pub const BENCH: &[Tool] = &[
    Tool {
        probe: &["iptables"],
        packages: &["iptables"],
        purpose: "the rules of Docker's data path",
    },
    Tool {
        probe: &["wg"],
        packages: &["wireguard-tools"],
        purpose: "keys and peers of WireGuard",
    },
];

impl Tool {
    /// Whether this machine has it.
    pub fn present(&self) -> bool {
        self.probe.iter().any(|probe| {
            if probe.starts_with('/') {
                Path::new(probe).exists()
            } else {
                command::find_program(probe).is_some()
            }
        })
    }
}

/// The verb `setup`: everything that any verb would do by itself.
pub fn run(workspace: &Workspace) -> Result<()> {
    ensure(workspace, VM)?;
    ensure(workspace, NETWORK)?;
    ensure(workspace, BENCH)?;
    let rust = toolchain::ensure(workspace)?;
    bpf_linker::ensure(workspace, &rust)?;
    for kernel in vm::Kernel::ALL {
        vm::fetch(workspace, kernel)?;
    }
    say::step("this machine has all that xtask needs");
    Ok(())
}

/// Gets the tools that are missing, or says what is missing and how to get it.
pub fn ensure(workspace: &Workspace, tools: &[Tool]) -> Result<()> {
    let missing =
        |tools: &[Tool]| -> Vec<Tool> { tools.iter().copied().filter(|t| !t.present()).collect() };
    if missing(tools).is_empty() {
        return Ok(());
    }
    let _lock = workspace.lock()?;
    // Another xtask may have installed them while we waited for the lock.
    let wanted = missing(tools);
    if wanted.is_empty() {
        return Ok(());
    }
    let choices: Vec<&[&str]> = wanted.iter().map(|tool| tool.packages).collect();
    install(&choices).with_context(|| {
        let list: Vec<String> = wanted
            .iter()
            .map(|tool| {
                format!(
                    "  {} — {} (Debian: {})",
                    tool.probe.join(" or "),
                    tool.purpose,
                    tool.packages.join(" or ")
                )
            })
            .collect();
        format!("this machine lacks\n{}", list.join("\n"))
    })?;
    if let Some(tool) = missing(&wanted).first() {
        bail!(
            "installed {}, yet found no {}",
            tool.packages.join(" or "),
            tool.probe.join(" or ")
        );
    }
    Ok(())
}

/// Installs Debian packages: of each group of alternatives the first that apt
/// knows.
pub fn install(choices: &[&[&str]]) -> Result<()> {
    // One package may have several of the tools.
    let first: BTreeSet<&str> = choices.iter().filter_map(|c| c.first().copied()).collect();
    let first = Vec::from_iter(first);
    let by_hand = format!("sudo apt-get install {}", first.join(" "));
    if command::find_program("apt-get").is_none() {
        bail!("there is no apt here: install them with your distribution's package manager");
    }
    if !is_root() {
        bail!("not root, so nothing was installed; run\n  {by_hand}");
    }
    let packages = match known(choices) {
        Some(packages) => packages,
        None => {
            apt_update()?;
            known(choices).with_context(|| {
                format!("apt's sources offer none of these, even refreshed; try\n  {by_hand}")
            })?
        }
    };
    say::step(format_args!(
        "apt-get install {}",
        Vec::from_iter(packages.iter().map(String::as_str)).join(" ")
    ));
    let mut install = apt_get();
    install
        .args(["-qq", "-y", "--no-install-recommends", "install"])
        .args(&packages)
        // dpkg writes a line per file; apt's errors go to standard error.
        .stdout(std::process::Stdio::null());
    if command::run(&mut install).is_ok() {
        return Ok(());
    }
    // The usual reasons are a list older than the mirror, and an earlier run that was interrupted.
    command::run(Command::new("dpkg").args(["--configure", "-a"]))
        .context("finish what an interrupted installation has left")?;
    apt_update()?;
    command::run(&mut install).with_context(|| format!("by hand: {by_hand}"))
}

/// Installs the newest that the mirrors offer, whatever version is here and whatever the lists said.
pub fn upgrade(choices: &[&[&str]]) -> Result<()> {
    apt_update()?;
    install(choices)
}

/// Refreshes apt's lists.
pub fn apt_update() -> Result<()> {
    say::step("apt-get update");
    command::run(apt_get().args(["-qq", "update"]))
        .context("refresh apt's lists; is the network there?")
}

/// Of each group the first package with an installation candidate; `None` when
/// a group has none.
fn known(choices: &[&[&str]]) -> Option<BTreeSet<String>> {
    choices
        .iter()
        .map(|group| {
            group
                .iter()
                .find(|package| has_candidate(package))
                .map(|package| (*package).to_owned())
        })
        .collect()
}

/// Whether apt could install `package`.
pub fn has_candidate(package: &str) -> bool {
    command::capture(
        Command::new("apt-cache")
            .args(["policy", package])
            .env("LC_ALL", "C"),
    )
    .is_ok_and(|policy| {
        policy
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Candidate:"))
            .any(|candidate| candidate.trim() != "(none)")
    })
}

/// Whether this process may install packages and load programs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        // Another apt (a fresh machine's automatic upgrade) is waited for.
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .stdin(std::process::Stdio::null());
    apt
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Parts of every Debian (coreutils and bash are essential packages), and subcommands of
    /// `overlay` that tests run by a method of the same name. `systemd-analyze` is asked where it is there.
    const NO_TOOLS: &[&str] = &[
        "bash",
        "cat",
        "sh",
        "sleep",
        "timeout",
        "apply",
        "watch",
        "systemd-analyze",
    ];

    /// How the tests, the demo and the agent name a program that they run.
    const CALLS: &[&str] = &["Command::new(", "run(", "shell(", "command(", "succeed("];

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the directory is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    /// The literal words that follow a call.
    fn programs(text: &str) -> impl Iterator<Item = &str> {
        CALLS
            .iter()
            .flat_map(|call| text.split(call).skip(1))
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
            .filter(|word| !word.is_empty())
            .filter(|word| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    }

    #[test]
    fn every_program_that_tests_and_agent_run_is_installed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for directory in ["tests/src", "tests/tests", "overlay-agent/src"] {
            sources(&root.join(directory), &mut files);
        }
        let mut seen = 0;
        for file in files {
            let text = fs::read_to_string(&file).expect("UTF-8");
            for program in programs(&text) {
                let mut tools = NETWORK.iter().chain(BENCH);
                let known =
                    tools.any(|tool| tool.probe.contains(&program)) || NO_TOOLS.contains(&program);
                assert!(
                    known,
                    "{} runs `{program}`, which is missing in setup::NETWORK and setup::BENCH",
                    file.display()
                );
                seen += 1;
            }
        }
        assert!(seen > 40, "only {seen} calls found: do CALLS still fit?");
    }

    #[test]
    fn calls_are_found_across_lines_and_paths_are_none() {
        let text = "succeed(\n    \"ping\", \"-c 1\"); Command::new(\"/bin/x\"); x.run(name)";
        assert_eq!(programs(text).collect::<Vec<_>>(), ["ping"]);
    }
}
