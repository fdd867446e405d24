//! What memory an agent holds in a large cluster: a manager and a worker, both real, and [`super::crowd`].

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use super::{
    crowd::{Crowd, EACH, LANES, TOGETHER, network},
    field, times,
};
use crate::{
    cluster::Cluster,
    lab::{NodeSpec, Spec, eventually},
};

/// Attached and detached beside them.
const ATTACHES: u32 = 20;
/// For the copies of planning, recording and checking to come and go.
const SETTLE: Duration = Duration::from_secs(20);
/// The nodes with an agent.
pub const AGENTS: [u32; 2] = [1, 2];

/// Lets so many members come, and says what the agents hold then.
pub fn measure(count: u32, encrypted: bool) -> Result<()> {
    let spec = Spec::new().routed();
    let mut cluster = Cluster::up(
        spec.node(NodeSpec::new().container("a", &[]))
            .node(NodeSpec::new().container("b", &[])),
    )?;
    let bench = Bench { count, encrypted };
    for node in AGENTS {
        bench.print("no network", node, &cluster, &[])?;
    }
    for number in 1..=count.div_ceil(TOGETHER) {
        let subnet = format!("10.{}.0.0/16", 64 + number);
        let mut options = vec!["--subnet", &subnet];
        if encrypted {
            options.extend(["--opt", "encrypted"]);
        }
        cluster.create(&network(number), &options)?;
        for container in ["a", "b"] {
            // Encrypted networks are closed where the kernel has no ESP.
            let attached = cluster.attach(container, &network(number), &[]);
            ensure!(encrypted || attached.is_ok(), "{attached:?}");
        }
    }
    thread::sleep(Duration::from_secs(5));
    for node in AGENTS {
        bench.print("alone", node, &cluster, &[])?;
    }

    let began = Instant::now();
    let mut crowd = Crowd::join(&cluster, count)?;
    bench.print_time("joins and leases", began.elapsed());
    let began = Instant::now();
    let records = crowd.records()?;
    for node in AGENTS {
        crowd.tell(node, &records)?;
        eventually(crate::cluster::SETTLE, || {
            let endpoints = cluster.status(node)?["endpoints"].clone();
            let known = endpoints["remote"].as_u64().unwrap_or_default();
            ensure!(known >= u64::from(count * EACH), "{endpoints}");
            Ok(())
        })?;
    }
    bench.print_time("records", began.elapsed());
    thread::sleep(SETTLE);
    for node in AGENTS {
        bench.print("full", node, &cluster, &[])?;
    }
    if encrypted {
        return rotate(&bench, &cluster, &mut crowd);
    }

    let netns = cluster.lab.netns("b")?.name().to_owned();
    let (mut attached, mut detached) = (Vec::new(), Vec::new());
    for _ in 0..ATTACHES {
        let words = ["endpoint", "attach", "n1", "--name", "x"];
        let words = [&words[..], &["--netns", &netns, "--interface", "x0"]].concat();
        let began = Instant::now();
        cluster.overlay(2, &words)?;
        attached.push(began.elapsed());
        let began = Instant::now();
        cluster.overlay(2, &["endpoint", "detach", "n1", "x"])?;
        detached.push(began.elapsed());
    }
    thread::sleep(SETTLE);
    bench.print(
        "attach, command",
        2,
        &cluster,
        &times::columns(&mut attached),
    )?;
    bench.print(
        "detach, command",
        2,
        &cluster,
        &times::columns(&mut detached),
    )?;
    Ok(())
}

/// All members acknowledge the SAs of the agents, and then those of the next epoch.
fn rotate(bench: &Bench, cluster: &Cluster, crowd: &mut Crowd<'_>) -> Result<()> {
    if sas(cluster, 1)? == 0 {
        println!("{{\"members\":\"no SAs: this kernel has no ESP\"}}");
        return Ok(());
    }
    // Both epochs live until all have said so.
    let policy = ["keys", "policy", "--grace", "2h", "--deadline", "2h"];
    cluster.overlay(1, &policy)?;
    let began = Instant::now();
    crowd.acknowledge()?;
    bench.print_time("acknowledgements", began.elapsed());
    bench.settled("acknowledged", 1, cluster)?;
    for node in AGENTS {
        // What was held at the most is counted from now on (proc(5), `clear_refs`).
        let peak = format!("/proc/{}/clear_refs", cluster.agent(node)?.pid()?);
        fs::write(&peak, "5").with_context(|| peak)?;
    }
    let began = Instant::now();
    cluster.overlay(1, &["keys", "rotate"])?;
    let records = crowd.next_epoch()?;
    for node in AGENTS {
        crowd.tell(node, &records)?;
    }
    crowd.acknowledge()?;
    bench.print_time("rotation", began.elapsed());
    bench.settled("rotating", 2, cluster)
}

/// SAs in the kernel of a node.
fn sas(cluster: &Cluster, node: u32) -> Result<u32> {
    let counted = cluster.lab.node(node)?.netns.ip("xfrm state count")?;
    let count = counted.split_whitespace().last();
    let count = count.and_then(|count| count.parse().ok());
    count.with_context(|| format!("`ip xfrm state count` says {counted:?}"))
}

struct Bench {
    count: u32,
    encrypted: bool,
}

impl Bench {
    fn line(&self, what: &str) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("members".into(), json!(what));
        line.insert("count".into(), json!(self.count));
        line.insert("endpoints".into(), json!(self.count * EACH));
        line.insert("encrypted".into(), json!(self.encrypted));
        line
    }

    /// What of a node's agent is in memory now, and was at the most.
    fn print(
        &self,
        what: &str,
        node: u32,
        cluster: &Cluster,
        more: &[(&'static str, Value)],
    ) -> Result<()> {
        let mut line = self.line(what);
        let role = if node == 1 { "manager" } else { "worker" };
        line.insert("agent".into(), json!(role));
        let status = format!("/proc/{}/status", cluster.agent(node)?.pid()?);
        for (name, of) in [
            ("rss_kib", "VmRSS:"),
            ("anon_kib", "RssAnon:"),
            ("file_kib", "RssFile:"),
            ("peak_kib", "VmHWM:"),
        ] {
            let value = field(&status, of).with_context(|| format!("{of} in {status}"))?;
            line.insert(name.into(), json!(value));
        }
        line.extend(
            more.iter()
                .cloned()
                .map(|(name, value)| (name.into(), value)),
        );
        println!("{}", Value::Object(line));
        Ok(())
    }

    /// What all agents hold once their kernels hold the SAs of so many epochs with the whole crowd, and have settled.
    fn settled(&self, what: &str, epochs: u32, cluster: &Cluster) -> Result<()> {
        let wanted = self.count * 2 * u32::from(LANES) * epochs;
        for node in AGENTS {
            eventually(crate::cluster::SETTLE, || {
                let held = sas(cluster, node)?;
                ensure!(held >= wanted, "node {node} has {held} SAs of {wanted}");
                Ok(())
            })?;
        }
        thread::sleep(SETTLE);
        for node in AGENTS {
            let held = sas(cluster, node)?;
            self.print(what, node, cluster, &[("sas", json!(held))])?;
        }
        Ok(())
    }

    fn print_time(&self, what: &str, took: Duration) {
        let mut line = self.line(what);
        line.insert("seconds".into(), json!(took.as_secs_f64()));
        println!("{}", Value::Object(line));
    }
}
