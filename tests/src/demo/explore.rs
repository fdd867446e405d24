//! `--keep`: the cluster stays for a look around.

use std::{io::IsTerminal as _, process::Command};

use anyhow::{Context as _, Result};

use super::report::Report;
use crate::{cluster::Cluster, lab::WIRE};

/// Prints the commands; with a terminal, gives a shell, without one waits for the end of the standard
/// input. Everything is removed then: agents belong to the process that started them.
pub fn stay(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let lab = &cluster.lab;
    let node = lab.node(1)?;
    let (netns, pins) = (
        node.netns.name().to_owned(),
        node.pins().display().to_string(),
    );
    let a = lab.netns("a")?.name().to_owned();
    let ip = lab.ip("b", "blue")?;
    report.title("To look around");
    report.say(&format!(
        "nsenter --net=/run/netns/{netns} tcpdump -ni {WIRE} 'esp or udp port 4789'"
    ));
    report.say(&format!("nsenter --net=/run/netns/{a} ping {ip}"));
    report.say(&format!(
        "nsenter --net=/run/netns/{netns} ip -s xfrm policy"
    ));
    report.say(&format!(
        "nsenter --net=/run/netns/{netns} bpftool net show"
    ));
    report.say(&format!("bpftool map dump pinned {pins}/v1/maps/endpoints"));
    report.say(&format!(
        "OVERLAY_SOCKET={} {} status",
        cluster.agent(1)?.socket().display(),
        crate::lab::overlay_binary()?.display()
    ));
    if std::io::stdin().is_terminal() {
        report.say("\nThis is a shell; when you leave it, everything is removed.");
        Command::new("bash").status().context("start bash")?;
        return Ok(());
    }
    report.say("\nThere is no terminal: everything is removed when the standard input ends.");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("wait for the end")?;
    Ok(())
}
