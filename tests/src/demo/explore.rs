//! `--keep`: the cluster stays for a look around.

use std::{io::IsTerminal as _, process::Command};

use anyhow::{Context as _, Result};

use super::report::Report;
use crate::lab::{Lab, WIRE};

/// Prints the commands; with a terminal, gives a shell and cleans up when it ends, without one
/// leaves everything in place.
pub fn stay(lab: Lab, report: &mut Report) -> Result<()> {
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
        "nsenter --net=/run/netns/{netns} {} --pin-dir {pins} dataplane show",
        crate::lab::overlay_binary()?.display()
    ));
    if std::io::stdin().is_terminal() {
        report.say("\nThis is a shell; when you leave it, everything is removed.");
        Command::new("bash").status().context("start bash")?;
        return Ok(());
    }
    report.say("\nThere is no terminal: everything stays until the next demo or test removes it.");
    lab.keep();
    Ok(())
}
