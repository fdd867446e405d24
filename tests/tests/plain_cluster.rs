//! Real agents make a cluster through the commands that a user types. What needs IPsec is in
//! `encrypted_cluster`.

use std::{
    collections::BTreeSet,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use overlay_tests::{
    cluster::{Cluster, LIMIT, SETTLE, name, nodes},
    lab::{
        command, eventually,
        traffic::{Stream, UdpEcho},
    },
};

/// What datagrams carry.
const TEXT: &[u8] = b"said between containers";

/// A plain network with the containers in it, which reach each other.
fn connected(cluster: &mut Cluster, containers: &[&str]) -> Result<()> {
    cluster.connect("green", &["--subnet", "10.7.0.0/16"], containers)
}

#[test]
fn four_commands_connect_containers_and_give_them_names() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b", "c"]))?;
    connected(&mut cluster, &["a", "b", "c"])?;
    let ping = cluster.lab.ping("a", "c", "green")?.run()?;
    ensure!(ping.lost() == 0, "{ping:?}");

    // The same names in another network are other endpoints.
    cluster.create("red", &["--subnet", "10.8.0.0/24"])?;
    cluster.attach("a", "red", &[])?;
    cluster.attach("b", "red", &[])?;
    cluster.reaches("a", "b", "red")?;
    ensure!(cluster.lab.ip("a", "green")? != cluster.lab.ip("a", "red")?);

    let all = cluster.json(2, &["endpoint", "ls", "--all"])?;
    let names: BTreeSet<_> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["network"].as_str()?, one["name"].as_str()?)))
        .collect();
    let wanted = [
        ("green", "a"),
        ("green", "b"),
        ("green", "c"),
        ("red", "a"),
        ("red", "b"),
    ];
    ensure!(names == BTreeSet::from(wanted), "{all}");

    for (asked, answer) in [
        ("b", cluster.lab.ip("b", "green")?),
        ("c.green", cluster.lab.ip("c", "green")?),
        ("b.red", cluster.lab.ip("b", "red")?),
    ] {
        eventually(SETTLE, || {
            let found = overlay_tests::cluster::resolve(cluster.lab.netns("a")?, asked)?;
            ensure!(found == [answer], "{asked} is {found:?}, and not {answer}");
            Ok(())
        })?;
    }

    cluster.overlay(3, &["endpoint", "detach", "green", "c"])?;
    eventually(SETTLE, || {
        let all = cluster.json(1, &["endpoint", "ls", "--all"])?.to_string();
        ensure!(!all.contains("\"c\""), "{all}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn an_agent_that_is_killed_stopped_and_replaced_interrupts_nothing() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b"]))?;
    connected(&mut cluster, &["a", "b"])?;
    let echo = UdpEcho::start(cluster.lab.netns("b")?, cluster.lab.ip("b", "green")?, 7)?;
    let stream = Stream::start(cluster.lab.netns("a")?, echo.address, 100, 200, TEXT)?;
    for node in [1, 2] {
        cluster.agent_mut(node)?.kill()?;
        thread::sleep(Duration::from_millis(500));
        cluster.agent_mut(node)?.start()?;
        // An upgrade in place is the same with another program.
        cluster.agent_mut(node)?.stop()?;
        cluster.agent_mut(node)?.start()?;
        eventually(SETTLE, || cluster.good(node))?;
    }
    // Gossip has caught up, and what the agents before believed is not needed any longer.
    thread::sleep(Duration::from_secs(5));
    let result = stream.stop()?;
    result.lossless().with_context(|| cluster.explain())?;
    let ls = cluster.overlay(1, &["endpoint", "ls", "-q"])?;
    ensure!(ls.contains('a'), "the endpoint is forgotten: {ls}");
    Ok(())
}

#[test]
fn three_managers_survive_their_leader_and_take_it_back() -> Result<()> {
    let mut cluster = Cluster::with_managers(nodes(&["a", "b", "c", "d"]), 3)?;
    connected(&mut cluster, &["a", "d"])?;
    let echo = UdpEcho::start(cluster.lab.netns("d")?, cluster.lab.ip("d", "green")?, 7)?;
    let stream = Stream::start(cluster.lab.netns("a")?, echo.address, 50, 200, TEXT)?;
    eventually(SETTLE, || {
        let status = cluster.status(2)?;
        ensure!(status["managers"]["total"] == 3, "{status}");
        Ok(())
    })?;
    let leader = eventually(SETTLE, || cluster.leader(2))?;
    let other = if leader == 2 { 3 } else { 2 };
    cluster.agent_mut(leader)?.kill()?;
    let started = Instant::now();
    cluster.overlay(
        other,
        &["network", "create", "--subnet", "10.8.0.0/24", "red"],
    )?;
    println!(
        "a network was made {:?} after the leader's end",
        started.elapsed()
    );
    // Workers hear of it from whoever answers.
    cluster.sees(4, "red")?;
    cluster.agent_mut(leader)?.start()?;
    cluster.sees(leader, "red")?;

    // Two of three: traffic goes on, nothing can be changed, and that is said.
    let third = (1..=3)
        .find(|node| *node != other && *node != leader)
        .context("a third manager")?;
    cluster.agent_mut(leader)?.kill()?;
    cluster.agent_mut(third)?.kill()?;
    // Before, what is asked may be in the log of a leader, and be decided when the others are back.
    eventually(SETTLE, || {
        let status = cluster.status(other)?;
        ensure!(status["managers"]["quorum"] == false, "{status}");
        Ok(())
    })?;
    let (status, said) = cluster.refused(other, &["network", "create", "late"])?;
    ensure!(status == 1, "{status}: {said}");
    ensure!(
        said.contains("manager"),
        "the loss of quorum is not named: {said}"
    );
    cluster.agent_mut(leader)?.start()?;
    cluster.agent_mut(third)?.start()?;
    eventually(SETTLE, || {
        cluster.overlay(other, &["network", "create", "late"])
    })?;
    stream
        .stop()?
        .lossless()
        .with_context(|| cluster.explain())?;
    Ok(())
}

#[test]
fn roles_change_and_a_manager_leaves_office() -> Result<()> {
    let cluster = Cluster::up(nodes(&["a", "b", "c"]))?;
    cluster.overlay(1, &["node", "promote", "node-2", "node-3"])?;
    eventually(SETTLE, || {
        let all = cluster.json(3, &["node", "ls"])?;
        let managers = all.as_array().into_iter().flatten();
        let ready = managers.filter(|one| {
            one["manager_status"] == "leader" || one["manager_status"] == "reachable"
        });
        ensure!(ready.count() == 3, "{all}");
        Ok(())
    })?;
    // The first one goes, whoever leads.
    eventually(SETTLE, || cluster.overlay(2, &["node", "demote", "node-1"]))?;
    cluster.overlay(3, &["network", "create", "blue"])?;
    let (status, said) = cluster.refused(1, &["network", "create", "green"])?;
    ensure!(status == 1 && said.contains("manager"), "{status}: {said}");
    let secrets = cluster.agent(1)?.state().join("cluster/manager/store.redb");
    eventually(SETTLE, || {
        ensure!(!secrets.exists(), "a worker keeps the managers' state");
        Ok(())
    })?;
    let (_, said) = cluster.refused(2, &["leave", "--yes"])?;
    ensure!(said.contains("demote"), "{said}");
    cluster.overlay(1, &["leave", "--yes"])?;
    let status = cluster.status(1)?;
    ensure!(status["state"] == "no_cluster", "{status}");
    Ok(())
}

#[test]
fn who_may_not_join_is_told_why_on_both_sides() -> Result<()> {
    let mut cluster = Cluster::new(nodes(&["a", "b", "c"]))?;
    for node in 1..=3 {
        cluster.agent_mut(node)?.start()?;
    }
    cluster.init(1, &[])?;
    let token = cluster.token(1, "worker")?;
    let refused = |node, at, token: &str, why: &str| -> Result<()> {
        let error = cluster
            .join_with(node, at, token)
            .err()
            .with_context(|| format!("node {node} joined with a token that should not let it"))?;
        ensure!(format!("{error:#}").contains(why), "{error:#}");
        ensure!(
            !format!("{error:#}").contains(token),
            "the token is in the error: {error:#}"
        );
        Ok(())
    };
    refused(2, 1, "OVL1-W-nonsense", "token")?;
    let flipped = flip(&token);
    refused(2, 1, &flipped, "checksum")?;
    // A token of another cluster.
    cluster.init(3, &[])?;
    let foreign = cluster.token(3, "worker")?;
    let error = cluster.join_with(2, 1, &foreign);
    ensure!(error.is_err(), "a foreign token lets a node in");
    // One that was rotated away.
    cluster.overlay(1, &["token", "rotate", "worker"])?;
    refused(2, 1, &token, "rotated")?;
    // One whose time is over.
    cluster.overlay(1, &["token", "rotate", "worker", "--expires", "1s"])?;
    let short = cluster.token(1, "worker")?;
    thread::sleep(Duration::from_secs(2));
    refused(2, 1, &short, "expired")?;
    cluster.overlay(1, &["token", "rotate", "worker"])?;
    let log = cluster.agent(1)?.log_text();
    ensure!(
        log.contains("may not join"),
        "the manager does not say whom it refused: {log}"
    );
    // A name that is taken.
    let new = cluster.token(1, "worker")?;
    let mut taken = cluster.command(
        2,
        &[
            "join",
            "--token-file",
            "-",
            "--name",
            &name(1),
            &cluster.address(1)?.to_string(),
        ],
    )?;
    let output = command::run_with_input(&mut taken, Some(&new), LIMIT)?;
    ensure!(
        !output.status.success() && output.stderr.contains(&name(1)),
        "{output:?}"
    );
    // An address that is another node's.
    let own = cluster.address(1)?.to_string();
    let arguments = ["join", "--token-file", "-", "--advertise", &own, &own];
    let mut doubled = cluster.command(2, &arguments)?;
    let output = command::run_with_input(&mut doubled, Some(&new), LIMIT)?;
    ensure!(
        !output.status.success() && output.stderr.contains(&own),
        "{output:?}"
    );
    // And then it joins, and is a member: a second join is refused.
    cluster.join_with(2, 1, &new)?;
    refused(2, 1, &new, "already")?;
    // Neither a log nor a listing of processes has a token.
    for node in 1..=3 {
        let log = cluster.agent(node)?.log_text();
        for secret in [&token, &new, &foreign] {
            ensure!(!log.contains(secret.as_str()), "a token is in a log");
        }
    }
    Ok(())
}

/// The token with one character of its secret changed.
fn flip(token: &str) -> String {
    let at = token.len() / 2;
    let other = if token.as_bytes()[at] == b'A' {
        'B'
    } else {
        'A'
    };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

#[test]
fn networks_and_endpoints_are_refused_with_the_clash_named() -> Result<()> {
    let mut cluster = Cluster::up(nodes(&["a", "b"]))?;
    cluster.create("green", &["--subnet", "10.7.0.0/24"])?;
    let refused = |cluster: &Cluster, arguments: &[&str], parts: &[&str]| -> Result<()> {
        let (status, said) = cluster.refused(1, arguments)?;
        ensure!(matches!(status, 1 | 2), "{arguments:?}: {status}");
        for part in parts {
            ensure!(said.contains(part), "{arguments:?}: no `{part}` in: {said}");
        }
        Ok(())
    };
    let create = ["network", "create"];
    let with = |more: &[&'static str]| -> Vec<&str> {
        create.iter().copied().chain(more.iter().copied()).collect()
    };
    refused(
        &cluster,
        &with(&["--subnet", "10.7.0.128/25", "x"]),
        &["10.7.0.128/25", "green"],
    )?;
    refused(&cluster, &with(&["green"]), &["green"])?;
    // The wire's own subnet: this host would lose it.
    let wire = format!("{}/24", cluster.address(1)?);
    let net: String = wire
        .rsplit_once('.')
        .map_or(String::new(), |(net, _)| format!("{net}.0/24"));
    refused(
        &cluster,
        &["network", "create", "--subnet", &net, "x"],
        &[&net, "this host reaches"],
    )?;
    refused(
        &cluster,
        &with(&["--subnet", "10.9.0.1/24", "x"]),
        &["10.9.0.0/24"],
    )?;
    refused(&cluster, &with(&["--driver", "bridge", "x"]), &["bridge"])?;
    refused(&cluster, &with(&["--opt", "unknown=1", "x"]), &["unknown"])?;
    refused(
        &cluster,
        &["network", "rm", "--yes", "nothing"],
        &["nothing"],
    )?;
    refused(&cluster, &["network", "rm", "green"], &["--yes"])?;

    cluster.create(
        "managed",
        &["--attachable=false", "--subnet", "10.9.0.0/24"],
    )?;
    let netns = cluster.lab.netns("a")?.name().to_owned();
    refused(
        &cluster,
        &[
            "endpoint", "attach", "managed", "--netns", &netns, "--name", "a",
        ],
        &["managed"],
    )?;
    cluster.attach("a", "managed", &["--managed"])?;
    refused(
        &cluster,
        &["network", "rm", "--yes", "managed"],
        &["endpoint"],
    )?;
    refused(
        &cluster,
        &[
            "endpoint", "attach", "green", "--netns", "nowhere", "--name", "x",
        ],
        &["nowhere"],
    )?;
    refused(
        &cluster,
        &[
            "endpoint", "attach", "green", "--netns", &netns, "--name", "x", "--ip", "10.7.0.1",
        ],
        &["10.7.0.1"],
    )?;
    cluster.attach("b", "green", &["--ip", "10.7.0.77"])?;
    ensure!(cluster.lab.ip("b", "green")?.to_string() == "10.7.0.77");
    Ok(())
}

#[test]
fn nobody_but_root_and_the_group_asks_the_agent() -> Result<()> {
    let cluster = Cluster::up(nodes(&["a"]))?;
    let agent = cluster.agent(1)?;
    let mode = std::fs::metadata(agent.socket())?.permissions().mode() & 0o777;
    ensure!(
        matches!(mode, 0o600 | 0o660),
        "the socket has mode {mode:o}"
    );
    for path in [agent.state(), agent.run()] {
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o077;
        ensure!(
            mode & 0o022 == 0,
            "{} may be written by others",
            path.display()
        );
    }
    // The directories above keep others out; here they may come as far as the socket.
    for directory in agent.socket().ancestors().skip(1).take(3) {
        if directory.starts_with(cluster.lab.directory()) {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    let mut status = agent.command(&["status"])?;
    let nobody = 65534;
    status.uid(0).gid(0);
    ensure!(command::run(&mut status, LIMIT)?.status.code() == Some(0));
    // `nsenter` needs root, and the socket is in the file system: no namespace is entered.
    let mut status = std::process::Command::new(overlay_tests::lab::overlay_binary()?);
    status
        .arg("--socket")
        .arg(agent.socket())
        .arg("status")
        .uid(nobody)
        .gid(nobody);
    let output = command::run(&mut status, LIMIT)?;
    ensure!(
        output.status.code() == Some(1) && output.stderr.contains("root"),
        "{output:?}"
    );
    Ok(())
}

/// What `agent_memory` is for many endpoints, for none: 10 % more than was measured with this line.
#[test]
fn an_agent_with_one_endpoint_holds_little() -> Result<()> {
    const BUDGET: u64 = 28 << 20;
    let mut cluster = Cluster::up(nodes(&["a"]))?;
    connected(&mut cluster, &["a"])?;
    eventually(SETTLE, || {
        let memory = cluster.agent(1)?.memory()?;
        ensure!(
            memory <= BUDGET,
            "the agent holds {memory} bytes: find what grew, or raise the budget and docs/benchmarks/control.md"
        );
        Ok(())
    })
}

#[test]
fn a_storm_of_joins_is_answered() -> Result<()> {
    const NODES: u32 = 6;
    let containers: Vec<String> = (1..=NODES).map(|node| format!("c{node}")).collect();
    let containers: Vec<&str> = containers.iter().map(String::as_str).collect();
    let mut cluster = Cluster::new(nodes(&containers))?;
    for node in 1..=NODES {
        cluster.agent_mut(node)?.start()?;
    }
    cluster.init(1, &[])?;
    let token = cluster.token(1, "worker")?;
    thread::scope(|scope| {
        let joins: Vec<_> = (2..=NODES)
            .map(|node| {
                let (cluster, token) = (&cluster, &token);
                scope.spawn(move || cluster.join_with(node, 1, token))
            })
            .collect();
        for join in joins {
            join.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    eventually(SETTLE, || {
        for node in 1..=NODES {
            let status = cluster.status(node)?;
            ensure!(status["nodes"]["ready"] == NODES, "node {node}: {status}");
        }
        Ok(())
    })?;
    let all = cluster.json(1, &["node", "ls"])?;
    let indices: BTreeSet<_> = all
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["index"].as_u64())
        .collect();
    ensure!(
        indices.len() == NODES as usize,
        "an index is given twice: {all}"
    );
    Ok(())
}

#[test]
fn a_locked_manager_is_unlocked_and_a_backup_is_restored() -> Result<()> {
    let mut cluster = Cluster::new(nodes(&["a", "b"]))?;
    for node in [1, 2] {
        cluster.agent_mut(node)?.start()?;
    }
    let said = cluster.init(1, &["--autolock"])?;
    let key = said
        .split_whitespace()
        .find(|word| word.starts_with("OVLKEY-1-"))
        .context("an unlock key")?
        .to_owned();
    cluster.join(2, 1, "worker")?;
    cluster.create("green", &["--subnet", "10.7.0.0/24"])?;
    cluster.agent_mut(1)?.stop()?;
    cluster.agent_mut(1)?.start()?;
    let status = cluster.status(1)?;
    ensure!(status["state"] == "locked", "{status}");
    let (_, said) = cluster.refused(1, &["token", "show", "worker"])?;
    ensure!(said.contains("unlock"), "{said}");
    let unlock = |key: &str| -> Result<command::Output> {
        let mut unlock = cluster.command(1, &["unlock"])?;
        command::run_with_input(&mut unlock, Some(key), LIMIT)
    };
    let wrong = unlock(&flip(&key))?;
    ensure!(
        !wrong.status.success() && !wrong.stderr.contains(&key),
        "{wrong:?}"
    );
    let right = unlock(&key)?;
    ensure!(right.status.success(), "{right:?}");
    eventually(SETTLE, || cluster.token(1, "worker"))?;
    cluster.overlay(1, &["autolock", "off"])?;

    // What comes after the backup is lost with it, and nothing else.
    let files = cluster.lab.directory().to_owned();
    let (backup, its_key) = (files.join("backup"), files.join("backup.key"));
    let (backup, its_key) = (backup.display().to_string(), its_key.display().to_string());
    cluster.overlay(1, &["backup", "--out", &backup, "--key-out", &its_key])?;
    for path in [&backup, &its_key] {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{path} has mode {mode:o}");
    }
    let (_, said) = cluster.refused(1, &["backup", "--out", &backup, "--key-out", &its_key])?;
    ensure!(said.contains("exists"), "{said}");
    cluster.create("late", &["--subnet", "10.8.0.0/24"])?;
    cluster.overlay(1, &["restore", "--key-file", &its_key, "--yes", &backup])?;
    let networks = cluster.json(1, &["network", "ls"])?.to_string();
    ensure!(
        networks.contains("green") && !networks.contains("late"),
        "{networks}"
    );
    // The worker follows the next incarnation.
    eventually(SETTLE, || {
        let networks = cluster.json(2, &["network", "ls"])?.to_string();
        ensure!(!networks.contains("late"), "{networks}");
        Ok(())
    })?;
    cluster.create("after", &["--subnet", "10.8.0.0/24"])?;
    cluster.sees(2, "after")?;
    Ok(())
}
