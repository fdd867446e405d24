//! Managers that fail, that are cut off, nodes that leave and come back, and the agent as a service.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, SETTLE, name, nodes},
    lab::{command, eventually},
};
use serde_json::Value;

/// The networks that a node knows, by name.
fn networks(cluster: &Cluster, node: u32) -> Result<BTreeSet<String>> {
    let all = cluster.json(node, &["network", "ls"])?;
    let names = all.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|network| network["name"].as_str().map(str::to_owned))
        .collect())
}

/// A node of this name in the listing of another, if there is exactly one.
fn listed(cluster: &Cluster, asked: u32, of: u32) -> Result<Value> {
    let all = cluster.json(asked, &["node", "ls"])?;
    let nodes = all.as_array().into_iter().flatten();
    let found: Vec<_> = nodes.filter(|node| node["name"] == name(of)).collect();
    ensure!(found.len() == 1, "node {of} is not listed once: {all}");
    Ok(found[0].clone())
}

fn has_quorum(cluster: &Cluster, node: u32, expected: bool) -> Result<()> {
    eventually(SETTLE, || {
        let status = cluster.status(node)?;
        ensure!(status["managers"]["quorum"] == expected, "{status}");
        Ok(())
    })
}

#[test]
fn five_managers_decide_without_two_and_without_three_they_say_that_they_do_not() -> Result<()> {
    const WORKER: u32 = 6;
    let mut cluster = Cluster::with_managers(nodes(&["a", "b", "c", "d", "e", "f"]), 5)?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "f"])?;
    let (_echo, stream) = cluster.stream("a", "f", "green")?;
    let leader = eventually(SETTLE, || cluster.leader(1))?;
    let others: Vec<u32> = (1..=5).filter(|node| *node != leader).collect();
    let (second, third, asked) = (others[0], others[1], others[2]);

    for node in [leader, second] {
        cluster.agent_mut(node)?.kill()?;
    }
    let red = ["network", "create", "--subnet", "10.8.0.0/24", "red"];
    cluster
        .overlay(asked, &red)
        .with_context(|| cluster.explain())?;
    cluster.sees(WORKER, "red")?;
    let next = eventually(SETTLE, || cluster.leader(asked))?;
    ensure!(
        next != leader && next != second,
        "node {next} leads, which is dead"
    );
    // A worker decides nothing, and says who does.
    let (status, said) = cluster.refused(WORKER, &["network", "create", "blue"])?;
    ensure!(status == 1 && said.contains("manager"), "{status}: {said}");

    cluster.agent_mut(third)?.kill()?;
    // What is asked of a leader that still believes in its majority is decided later, or never.
    for node in [asked, WORKER] {
        has_quorum(&cluster, node, false)?;
    }
    let (status, said) = cluster.refused(asked, &["network", "create", "late"])?;
    ensure!(
        status == 1 && said.contains("3 of 5 managers are needed"),
        "{status}: {said}"
    );
    for node in [leader, second, third] {
        ensure!(
            said.contains(&name(node)),
            "{} is not named: {said}",
            name(node)
        );
    }
    let status = command::run(
        &mut cluster.command(asked, &["status"])?,
        overlay_tests::cluster::LIMIT,
    )?;
    ensure!(
        status.status.code() == Some(1) && status.stdout.contains("NO QUORUM"),
        "{status:?}"
    );

    for node in [leader, second, third] {
        cluster.agent_mut(node)?.start()?;
    }
    has_quorum(&cluster, asked, true)?;
    let late = ["network", "create", "--subnet", "10.9.0.0/24", "late"];
    cluster
        .overlay(asked, &late)
        .with_context(|| cluster.explain())?;
    for node in 1..=WORKER {
        cluster.sees(node, "red")?;
        cluster.sees(node, "late")?;
    }
    let result = stream.stop()?;
    result.lossless().with_context(|| cluster.explain())?;
    Ok(())
}

#[test]
fn a_leader_that_is_cut_off_decides_nothing_and_then_takes_what_the_others_decided() -> Result<()> {
    const WORKER: u32 = 4;
    let containers = ["a", "b", "c", "d"];
    let mut cluster = Cluster::with_managers(nodes(&containers), 3)?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &containers)?;
    cluster.create("old", &["--subnet", "10.8.0.0/24"])?;
    for node in 1..=WORKER {
        cluster.sees(node, "old")?;
    }
    let leader = eventually(SETTLE, || cluster.leader(1))?;
    let majority: Vec<u32> = (1..=3).filter(|node| *node != leader).collect();
    let of = |node: u32| containers[node as usize - 1];

    cluster.lab.underlay.cut_off(&[leader])?;
    let (_echo, stream) = cluster.stream(of(majority[0]), of(WORKER), "green")?;
    let next = eventually(SETTLE, || {
        let next = cluster.leader(majority[0])?;
        ensure!(next != leader, "node {next} still leads");
        Ok(next)
    })?;
    ensure!(majority.contains(&next), "node {next} leads");
    let red = ["network", "create", "--subnet", "10.9.0.0/24", "red"];
    cluster
        .overlay(majority[1], &red)
        .with_context(|| cluster.explain())?;
    cluster.overlay(majority[0], &["network", "rm", "--yes", "old"])?;
    cluster.sees(WORKER, "red")?;

    has_quorum(&cluster, leader, false)?;
    let (status, said) = cluster.refused(leader, &["network", "create", "lost"])?;
    ensure!(
        status == 1 && said.contains("2 of 3 managers are needed"),
        "{status}: {said}"
    );
    let known = networks(&cluster, leader)?;
    ensure!(
        known.contains("old") && !known.contains("red"),
        "node {leader} is not cut off: {known:?}"
    );
    stream
        .stop()?
        .lossless()
        .with_context(|| cluster.explain())?;

    cluster.lab.underlay.heal()?;
    has_quorum(&cluster, leader, true)?;
    eventually(SETTLE, || {
        let leaders: BTreeSet<u32> = (1..=3)
            .map(|node| cluster.leader(node))
            .collect::<Result<_>>()?;
        ensure!(leaders.len() == 1, "{leaders:?} lead");
        Ok(())
    })?;
    // It decides again with the others, and what comes now comes after all that was decided before.
    let after = ["network", "create", "--subnet", "10.10.0.0/24", "after"];
    cluster
        .overlay(leader, &after)
        .with_context(|| cluster.explain())?;
    let wanted = ["after", "green", "red"].map(str::to_owned);
    for node in 1..=WORKER {
        cluster.sees(node, "after")?;
        let known = networks(&cluster, node)?;
        ensure!(
            known == BTreeSet::from(wanted.clone()),
            "node {node} knows {known:?}"
        );
    }
    cluster.reaches(of(leader), of(WORKER), "green")?;
    cluster.reaches(of(WORKER), of(leader), "green")
}

#[test]
fn a_node_that_leaves_comes_back_under_its_name() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b", "c"]))?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "b", "c"])?;
    let before = listed(&cluster, 1, 3)?;
    let (status, said) = cluster.refused(3, &["leave", "--yes"])?;
    ensure!(status == 1 && said.contains("endpoint"), "{status}: {said}");
    cluster.overlay(3, &["endpoint", "detach", "green", "c"])?;
    cluster.overlay(3, &["leave", "--yes"])?;
    let status = cluster.status(3)?;
    ensure!(status["state"] == "no_cluster", "{status}");
    eventually(SETTLE, || {
        let gone = listed(&cluster, 1, 3)?;
        ensure!(gone["status"] == "left", "{gone}");
        let endpoints = cluster.json(2, &["endpoint", "ls", "--all"])?;
        ensure!(!endpoints.to_string().contains("\"c\""), "{endpoints}");
        Ok(())
    })?;

    cluster.join(3, 1, "worker")?;
    let back = listed(&cluster, 1, 3)?;
    // It made itself a new key, and an index is never given twice.
    ensure!(
        back["status"] != "left" && back["id"] != before["id"] && back["index"] != before["index"],
        "{back} is {before}"
    );
    cluster.attach("c", "green", &[])?;
    for (from, to) in [("c", "a"), ("a", "c"), ("b", "c")] {
        cluster.reaches(from, to, "green")?;
    }
    Ok(())
}

#[test]
fn an_evicted_node_is_told_so_and_comes_back_with_a_new_token_alone() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b", "c"]))?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "b", "c"])?;
    let old = cluster.token(1, "worker")?;
    let told = |cluster: &Cluster| {
        eventually(SETTLE, || {
            let status = cluster.status(3)?;
            let problems = status["problems"].to_string();
            ensure!(
                status["state"] == "evicted" && problems.contains("evicted"),
                "{status}"
            );
            Ok(())
        })
        .with_context(|| cluster.explain())
    };

    cluster.overlay(1, &["node", "rm", "--force", "--yes", "node-3"])?;
    told(&cluster)?;
    eventually(SETTLE, || {
        let peers = cluster.json(2, &["peers"])?.to_string();
        let endpoints = cluster.json(2, &["endpoint", "ls", "--all"])?.to_string();
        ensure!(
            !peers.contains("node-3") && !endpoints.contains("\"c\""),
            "node 2 still has it: {peers} {endpoints}"
        );
        Ok(())
    })?;
    let ping = cluster.lab.ping("a", "c", "green")?.count(3).run()?;
    ensure!(
        ping.received == 0,
        "an evicted node still answers: {ping:?}"
    );

    // Nor does a new start bring it back.
    cluster.agent_mut(3)?.stop()?;
    cluster.agent_mut(3)?.start()?;
    told(&cluster)?;
    let join = |token: &str| {
        cluster
            .join_with(3, 1, token)
            .map_err(|error| format!("{error:#}"))
    };
    let said = join(&old).err().context("a member joined again")?;
    ensure!(said.contains("already") && said.contains("leave"), "{said}");
    // No manager in reach hears that it goes, and it keeps nothing all the same.
    cluster.lab.underlay.cut_off(&[3])?;
    cluster.overlay(3, &["leave", "--force", "--yes"])?;
    cluster.lab.underlay.heal()?;
    let said = join(&old).err().context("the token of before lets it in")?;
    ensure!(said.contains("rotated"), "{said}");

    cluster.join(3, 1, "worker")?;
    let back = listed(&cluster, 1, 3)?;
    ensure!(back["status"] != "left", "{back}");
    cluster.attach("c", "green", &[])?;
    cluster.reaches("a", "c", "green")?;
    cluster.reaches("c", "b", "green")
}

#[test]
fn an_agent_that_is_killed_before_it_wrote_down_what_it_did_interrupts_nothing() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b"]))?;
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], &["a", "b"])?;
    let (_echo, stream) = cluster.stream("a", "b", "green")?;
    // Nobody tells it of b for a while: it goes by what is in the kernel.
    for node in [2, 1] {
        cluster.agent_mut(node)?.kill()?;
    }
    let record = cluster.agent(1)?.run().join("desired.json");
    fs::remove_file(&record).with_context(|| format!("remove {}", record.display()))?;
    let before = cluster.agent(1)?.log_text().len();
    cluster.agent_mut(1)?.start()?;
    eventually(SETTLE, || {
        let log = cluster.agent(1)?.log_text();
        let looked = log[before..].contains("checked=Complete");
        ensure!(looked, "the agent has not looked at the kernel yet: {log}");
        Ok(())
    })?;
    cluster.agent_mut(2)?.start()?;
    eventually(SETTLE, || {
        let status = cluster.status(1)?;
        ensure!(status["nodes"]["ready"] == 2, "{status}");
        Ok(())
    })?;
    stream
        .stop()?
        .lossless()
        .with_context(|| cluster.explain())?;
    Ok(())
}

#[test]
fn a_reload_takes_over_what_makes_sense_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a"]))?;
    let file = cluster.agent(1)?.config();
    let loud = fs::read_to_string(&file)?;
    let level = "level = \"overlay_agent=debug,warn\"";
    ensure!(loud.contains(level), "{loud}");
    let reload = |text: &str, expected: &[&str]| -> Result<()> {
        let agent = cluster.agent(1)?;
        let before = agent.log_text().len();
        fs::write(&file, text)?;
        agent.reload()?;
        eventually(SETTLE, || {
            let log = agent.log_text();
            let news = &log[before..];
            let line = news
                .lines()
                .find(|line| expected.iter().all(|part| line.contains(part)));
            ensure!(line.is_some(), "no line with {expected:?}: {news}");
            Ok(())
        })
    };
    let path = file.display().to_string();
    let is_told = |network: &str| -> Result<bool> {
        let log = cluster.agent(1)?.log_text();
        Ok(log.contains(&format!("network {network} created")))
    };
    let created = |network: &str| -> Result<()> {
        cluster.create(network, &[])?;
        cluster.sees(1, network)
    };
    let heard = |network: &str| {
        eventually(SETTLE, || {
            ensure!(is_told(network)?, "network {network} is not in the log");
            Ok(())
        })
    };

    created("first")?;
    heard("first")?;
    let quiet = loud.replace(level, "level = \"error\"");
    reload(&quiet, &["INFO", "`log.level` is taken over", &path])?;
    created("silent")?;
    // An error is said at any level: where it stands, and what is wrong.
    let broken = format!("{loud}[dns]\nenabled = perhaps\n");
    let line = broken.lines().count().to_string();
    reload(
        &broken,
        &[
            "ERROR",
            "the configuration stays as it is",
            &path,
            &line,
            "enabled",
        ],
    )?;
    let unknown = format!("unknown = 1\n{loud}");
    reload(&unknown, &["ERROR", "stays as it is", &path, "unknown"])?;
    created("still-silent")?;

    // What only a start takes over is named; the rest of the file is taken over.
    let file_and_port = format!("{loud}[control]\nport = 7999\n");
    fs::write(&file, &loud)?;
    cluster.agent(1)?.reload()?;
    // Nothing of a reload is in the log at the level of before, so it is waited for through what follows.
    eventually(SETTLE, || {
        let network = format!("loud-{}", networks(&cluster, 1)?.len());
        created(&network)?;
        ensure!(is_told(&network)?, "network {network} is not in the log");
        Ok(())
    })?;
    reload(
        &file_and_port,
        &["WARN", "`control.port` has changed", "restart"],
    )?;
    for network in ["silent", "still-silent"] {
        ensure!(!is_told(network)?, "network {network} is in the log");
    }
    cluster.good(1)?;
    // SIGTERM ends it with status 0.
    cluster.agent_mut(1)?.stop()
}

/// What a service manager would hear.
struct Notified {
    messages: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Notified {
    fn at(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path).context("make a socket for notifications")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (messages, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let (all, stopped) = (Arc::clone(&messages), Arc::clone(&stop));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !AtomicBool::load(&stopped, Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    all.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(message);
                }
            }
        });
        Ok(Self { messages, stop })
    }

    /// All that came, in order.
    fn all(&self) -> Vec<String> {
        let messages = self.messages.lock();
        messages.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until messages after the first `from` have these assignments, in this order; how many came.
    fn heard(&self, from: usize, assignments: &[&str]) -> Result<usize> {
        eventually(SETTLE, || {
            let all = self.all();
            let mut wanted = assignments.iter();
            let mut next = wanted.next();
            for message in &all[from..] {
                while next.is_some_and(|next| message.lines().any(|line| line.starts_with(next))) {
                    next = wanted.next();
                }
            }
            ensure!(
                next.is_none(),
                "{next:?} does not come after {from}: {all:?}"
            );
            Ok(all.len())
        })
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_service_manager_hears_of_start_life_reload_and_stop() -> Result<()> {
    let mut cluster = Cluster::new(nodes(&["a"]))?;
    let path = cluster.lab.directory().join("notify");
    let notified = Notified::at(&path)?;
    let agent = cluster.agent_mut(1)?;
    agent.set_environment("NOTIFY_SOCKET", &path);
    agent.set_environment("WATCHDOG_USEC", "300000");
    agent.start()?;
    let count = notified.heard(0, &["READY=1", "STATUS=", "WATCHDOG=1", "WATCHDOG=1"])?;
    let all = notified.all();
    ensure!(
        all[0].contains("READY=1") && !all.iter().any(|message| message.contains("STOPPING")),
        "{all:?}"
    );

    agent.reload()?;
    let count = notified.heard(count, &["RELOADING=1", "MONOTONIC_USEC=", "READY=1"])?;
    // A file that makes no sense is over, too.
    fs::write(agent.config(), "[log")?;
    agent.reload()?;
    let count = notified.heard(count, &["RELOADING=1", "READY=1", "WATCHDOG=1"])?;
    // One that hangs does not live.
    agent.pause(true)?;
    let silent = notified.all().len();
    thread::sleep(Duration::from_secs(1));
    ensure!(
        notified.all().len() <= silent + 1,
        "a frozen agent says that it lives: {:?}",
        notified.all()
    );
    agent.pause(false)?;
    notified.heard(count, &["WATCHDOG=1"])?;
    agent.stop()?;
    notified.heard(count, &["STOPPING=1"]).map(drop)
}
