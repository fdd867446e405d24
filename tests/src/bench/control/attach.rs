//! How long an attach takes on a node that has many endpoints: a real agent, asked through its socket.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use overlay_agent::api::{
    client::Client,
    endpoint::{EndpointAttach, Netns as Where},
};
use serde_json::{Map, Value, json};

use super::{field, times};
use crate::{
    cluster::{Cluster, LIMIT},
    lab::{Netns, NodeSpec, Spec, command},
};

/// Networks, and with them the endpoints of a namespace.
const NETWORKS: u32 = 4;
/// Attached and detached by the command.
const BY_COMMAND: u32 = 20;
/// For the checks after the last attach to come to their end.
const SETTLE: Duration = Duration::from_secs(5);

/// Attaches `count` endpoints, then `attaches` others, one after the other, each detached again at once.
pub fn measure(count: u32, attaches: u32) -> Result<()> {
    let cluster = Cluster::up(Spec::new().node(NodeSpec::new()).node(NodeSpec::new()))?;
    for number in 0..NETWORKS {
        let subnet = format!("10.{}.0.0/16", 64 + number);
        cluster.create(&network(number), &["--subnet", &subnet])?;
        cluster.sees(1, &network(number))?;
    }
    let prefix = cluster.lab.node(1)?.netns.name().to_owned();
    let namespaces = (0..count.div_ceil(NETWORKS) + 1)
        .map(|number| Netns::new(&format!("{prefix}e{number}")))
        .collect::<Result<Vec<_>>>()?;
    let (last, filled) = namespaces.split_last().context("a namespace")?;
    let bench = Bench {
        cluster: &cluster,
        client: Client::new(cluster.agent(1)?.socket()),
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        count,
    };
    let empty = bench.resident()?;
    let mut filling = Vec::new();
    for number in 0..count {
        let netns = &filled[(number / NETWORKS) as usize];
        let request = request(number % NETWORKS, &format!("e{number}"), netns);
        filling.push(bench.timed(bench.client.attach(&request))?);
    }
    bench.print("attach, filling", &mut filling, &[]);
    thread::sleep(SETTLE);
    let resident = bench.resident()?;

    let (mut attached, mut detached) = (Vec::new(), Vec::new());
    for number in 0..attaches {
        let (network, name) = (network(number % NETWORKS), format!("x{number}"));
        let request = request(number % NETWORKS, &name, last);
        attached.push(bench.timed(bench.client.attach(&request))?);
        detached.push(bench.timed(bench.client.detach(&network, &name))?);
    }
    let memory = [
        ("agent_rss_empty_kib", json!(empty)),
        ("agent_rss_kib", json!(resident)),
    ];
    bench.print("attach", &mut attached, &memory);
    bench.print("detach", &mut detached, &memory);

    let mut by_command = Vec::new();
    for _ in 0..BY_COMMAND {
        let words = ["endpoint", "attach", "n0", "--name", "y"];
        let words = [&words[..], &["--netns", last.name()]].concat();
        let began = Instant::now();
        command::capture(&mut bench.cluster.command(1, &words)?, LIMIT)?;
        by_command.push(began.elapsed());
        bench.timed(bench.client.detach("n0", "y"))?;
    }
    bench.print("attach, command", &mut by_command, &[]);
    Ok(())
}

struct Bench<'a> {
    cluster: &'a Cluster,
    client: Client,
    runtime: tokio::runtime::Runtime,
    count: u32,
}

impl Bench<'_> {
    fn timed<T>(
        &self,
        call: impl Future<Output = Result<T, overlay_agent::api::client::ClientError>>,
    ) -> Result<Duration> {
        let began = Instant::now();
        self.runtime
            .block_on(call)
            .with_context(|| self.cluster.explain())?;
        Ok(began.elapsed())
    }

    /// What of the agent is in memory now, KiB.
    fn resident(&self) -> Result<u64> {
        let status = format!("/proc/{}/status", self.cluster.agent(1)?.pid()?);
        field(&status, "VmRSS:").context("the agent's memory")
    }

    fn print(&self, what: &str, of: &mut [Duration], more: &[(&'static str, Value)]) {
        let mut line = Map::new();
        line.insert("does".into(), json!(what));
        line.insert("local_endpoints".into(), json!(self.count));
        let columns = times::columns(of).into_iter().chain(more.iter().cloned());
        line.extend(columns.map(|(name, value)| (name.to_owned(), value)));
        println!("{}", Value::Object(line));
    }
}

fn network(number: u32) -> String {
    format!("n{number}")
}

/// Several networks have an interface each in a namespace.
fn request(number: u32, name: &str, netns: &Netns) -> EndpointAttach {
    EndpointAttach {
        network: network(number),
        name: Some(name.to_owned()),
        netns: Where::Name(netns.name().to_owned()),
        interface: Some(format!("eth{number}")),
        mac: None,
        addresses: Vec::new(),
        routes: Vec::new(),
        labels: Default::default(),
        managed: false,
    }
}
