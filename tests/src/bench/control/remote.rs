//! How fast the kernel is filled with what gossip tells: endpoints of a thousand peers, at once.
//!
//! The keeper of an agent runs here, in the namespace of a node, and is handed a data plane as the
//! agent's is.

use std::{
    collections::BTreeMap,
    future::pending,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use overlay_agent::{
    dataplane::{
        compile::compile,
        desired::{DataPlane, RemoteEndpoint},
        diff::diff,
        reconcile::Kernel as _,
    },
    kernel::{
        host::{Directories, Host},
        keeper::Keeper,
    },
};
use overlay_ebpf::abi::{MacAddr, PeerIndex, Vni};
use serde_json::{Map, Value, json};

use super::{kept, times};

const PEERS: u32 = 1000;

/// Lets them come and go so many times.
pub fn measure(count: u32, rounds: u32) -> Result<()> {
    let lab = super::lab(false)?;
    let node = lab.node(1)?;
    let directories = kept::directories(&lab, node);
    let rows = node.netns.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(run(
                &directories,
                &kept::base(&lab, PEERS, false)?,
                count,
                rounds,
            ))
    })??;
    let (rows, grown) = rows;
    println!(
        "{}",
        json!({"remote": "kept", "endpoints": count, "peers": PEERS, "rss_kib": grown})
    );
    for (does, mut all) in rows {
        let mut line = Map::new();
        line.insert("remote".into(), json!(does));
        line.insert("endpoints".into(), json!(count));
        line.insert("peers".into(), json!(PEERS));
        let columns = times::columns(&mut all);
        line.extend(columns.map(|(name, value)| (name.to_owned(), value)));
        println!("{}", Value::Object(line));
    }
    Ok(())
}

/// What each took, and by how much this process has grown, KiB.
type Rows = (Vec<(&'static str, Vec<Duration>)>, u64);

async fn run(directories: &Directories, base: &DataPlane, count: u32, rounds: u32) -> Result<Rows> {
    let resident = || super::field("/proc/self/status", "VmRSS:").context("the memory in use");
    let before = resident()?;
    let mut grown = 0;
    let mut full = base.clone();
    full.remote_endpoints = (0..count).map(endpoint).collect::<Result<_>>()?;
    let mut host = Host::open(directories.clone(), &base.settings, &[])?;
    host.take_over()?;
    let mut keeper = Keeper::new(host, base.clone());
    check(&mut keeper).await?;
    // Looks on, beside the keeper.
    let mut beside = Host::open(directories.clone(), &base.settings, &[])?;
    let facts = beside.facts(&full).await?;

    let mut rows: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds {
        let observed = beside.observe().await?;
        let began = Instant::now();
        let compiled = compile(&full, &facts).map_err(|all| anyhow!("{all:?}"))?;
        rows.entry("compile").or_default().push(began.elapsed());
        let began = Instant::now();
        let steps = diff(&compiled.objects, &observed);
        rows.entry("diff").or_default().push(began.elapsed());
        ensure!(steps.len() >= 2 * count as usize, "{} steps", steps.len());
        drop((compiled, steps, observed));

        let planned = follow(&mut keeper, &full).await?;
        rows.entry("whole, coming").or_default().push(planned);
        let maps = beside.pinned().context("the maps")?.observe_maps()?;
        ensure!(maps.endpoints.len() == count as usize, "not all are there");
        let began = Instant::now();
        check(&mut keeper).await?;
        rows.entry("check").or_default().push(began.elapsed());
        grown = resident()?.saturating_sub(before);
        let gone = follow(&mut keeper, base).await?;
        rows.entry("whole, going").or_default().push(gone);
        check(&mut keeper).await?;
    }
    Ok((rows.into_iter().collect(), grown))
}

async fn check(keeper: &mut Keeper) -> Result<()> {
    let report = keeper.check(pending(), || false, &mut |_| {}).await?;
    ensure!(report.is_complete(), "{:?}", report.failed);
    Ok(())
}

/// From a data plane that is handed over to the kernel that has it.
async fn follow(keeper: &mut Keeper, desired: &DataPlane) -> Result<Duration> {
    let desired = desired.clone();
    let began = Instant::now();
    keeper.want(desired);
    let report = keeper.follow(|| false, &mut |_| {}).await?;
    let took = began.elapsed();
    let report = report.context("the keeper wants to look first")?;
    ensure!(report.is_complete(), "{:?}", report.failed);
    Ok(took)
}

fn vni() -> Result<Vni> {
    Ok(Vni::new(4097)?)
}

fn endpoint(number: u32) -> Result<RemoteEndpoint> {
    let [_, b, c, d] = (number + 0x0200).to_be_bytes();
    Ok(RemoteEndpoint {
        vni: vni()?,
        peer: PeerIndex::new(number % PEERS + 2)?,
        mac: MacAddr([2, 0x42, 0x0b, b, c, d]),
        addresses: [IpAddr::from([11, b, c, d])].into(),
    })
}
