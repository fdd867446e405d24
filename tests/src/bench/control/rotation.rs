//! A rotation as one agent meets it: the SAs of many peers are staged, switched to and retired.
//!
//! The keeper of an agent runs here, in the namespace of a node, and is handed a data plane as the
//! agent's is. Needs ESP.

use std::{
    collections::BTreeMap,
    fs,
    future::pending,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use overlay_agent::{
    dataplane::{
        desired::{DataPlane, Direction, Keying, SecurityAssociation, Transmit},
        reconcile::{self, Kernel as _},
    },
    kernel::{
        host::{Directories, Host},
        keeper::Keeper,
    },
};
use overlay_ebpf::abi::{Epoch, Lane, Slot};
use serde_json::{Map, Value, json};

use super::{kept, times};
use crate::lab::{Lab, keyring};

/// Ticks of `/proc/PID/stat` in a second (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Lets `peers` peers have SAs for `lanes` lanes in both directions, and replaces them so many times.
pub fn measure(peers: u32, lanes: u8, rounds: u32) -> Result<()> {
    let lab = super::lab(true)?;
    let node = lab.node(1)?;
    let directories = kept::directories(&lab, node);
    let rows = node.netns.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(run(&directories, &lab, peers, lanes, rounds))
    })??;
    for (does, all) in rows {
        all.print(does, peers, lanes);
    }
    Ok(())
}

/// What several times of one phase took.
#[derive(Default)]
struct Phase {
    whole: Vec<Duration>,
    /// Of it: what is wanted, what differs, and in which order.
    plan: Vec<Duration>,
    user: Duration,
    system: Duration,
    /// SAs made or removed each time.
    sas: usize,
    /// Afterwards, the last time.
    memory: Memory,
}

/// `/proc/self/status`, KiB.
#[derive(Default, Clone, Copy)]
struct Memory {
    anonymous: u64,
    file: u64,
    /// The most that was resident while the phase ran.
    peak: u64,
}

impl Memory {
    fn now() -> Result<Self> {
        let field = |name| super::field("/proc/self/status", name).context("the memory in use");
        Ok(Self {
            anonymous: field("RssAnon:")?,
            file: field("RssFile:")?,
            peak: field("VmHWM:")?,
        })
    }
}

/// User and system time of this process.
fn cpu() -> Result<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The name before it may hold anything.
    let rest = stat.rsplit_once(") ").context("/proc/self/stat")?.1;
    let mut ticks = rest.split(' ').skip(11).map(str::parse::<u32>);
    let mut next = || -> Result<Duration> { Ok(TICK * ticks.next().context("utime, stime")??) };
    Ok((next()?, next()?))
}

impl Phase {
    fn print(mut self, does: &str, peers: u32, lanes: u8) {
        let times = self.whole.len().max(1) as u32;
        let whole: Duration = self.whole.iter().sum();
        let milliseconds = |of: Duration| json!((of / times).as_micros() as f64 / 1e3);
        let mut line = Map::new();
        line.insert("rotation".into(), json!(does));
        line.insert("peers".into(), json!(peers));
        line.insert("lanes".into(), json!(lanes));
        line.insert("sas".into(), json!(self.sas));
        let columns = times::columns(&mut self.whole);
        line.extend(columns.map(|(name, value)| (name.to_owned(), value)));
        self.plan.sort_unstable();
        let plan = self.plan.get(self.plan.len() / 2).copied();
        line.insert(
            "plan_p50_us".into(),
            json!(plan.unwrap_or_default().as_micros() as u64),
        );
        line.insert("user_ms".into(), milliseconds(self.user));
        line.insert("system_ms".into(), milliseconds(self.system));
        let sas = self.sas as f64 * f64::from(times) / whole.as_secs_f64().max(1e-9);
        line.insert("sas_per_s".into(), json!(sas.round() as u64));
        line.insert("rss_anon_kib".into(), json!(self.memory.anonymous));
        line.insert("rss_file_kib".into(), json!(self.memory.file));
        line.insert("peak_kib".into(), json!(self.memory.peak));
        println!("{}", Value::Object(line));
    }
}

/// The keeper, and what its phases took.
struct Bench {
    keeper: Keeper,
    /// Looks on, beside the keeper.
    beside: Host,
    phases: BTreeMap<&'static str, Phase>,
}

async fn run(
    directories: &Directories,
    lab: &Lab,
    peers: u32,
    lanes: u8,
    rounds: u32,
) -> Result<BTreeMap<&'static str, Phase>> {
    let mut desired = kept::base(lab, peers, true)?;
    let mut host = Host::open(directories.clone(), &desired.settings, &[])?;
    host.take_over()?;
    let keeper = Keeper::new(host, desired.clone());
    let beside = Host::open(directories.clone(), &desired.settings, &[])?;
    let mut bench = Bench {
        keeper,
        beside,
        phases: BTreeMap::new(),
    };
    bench.check().await?;
    let sas = peers as usize * usize::from(lanes);
    let mut now = (Epoch::new(1), Slot::new(0));
    add(&mut desired, Direction::In, now, lanes)?;
    add(&mut desired, Direction::Out, now, lanes)?;
    transmit(&mut desired, now, lanes);
    bench.phase("0 from nothing", &mut desired, 2 * sas).await?;
    for _ in 0..rounds {
        let old = now;
        now = (
            Epoch::new(old.0.get() + 1),
            Slot::new(old.1.get().wrapping_add(1)),
        );
        add(&mut desired, Direction::In, now, lanes)?;
        bench.phase("1 stage", &mut desired, sas).await?;
        add(&mut desired, Direction::Out, now, lanes)?;
        transmit(&mut desired, now, lanes);
        bench.phase("2 switch", &mut desired, sas).await?;
        for peer in desired.peers.values_mut() {
            peer.sas.retain(|sa| sa.slot != old.1);
        }
        bench.phase("3 retire", &mut desired, 2 * sas).await?;
        bench.phase("4 check", &mut desired, 0).await?;
        let held = bench.keeper.left().context("a look")?;
        ensure!(held.states.len() == 2 * sas, "{} SAs", held.states.len());
    }
    Ok(bench.phases)
}

impl Bench {
    /// From a data plane that is handed over to the kernel that has it; without SAs, a look at all.
    async fn phase(
        &mut self,
        does: &'static str,
        desired: &mut DataPlane,
        sas: usize,
    ) -> Result<()> {
        let facts = self.beside.facts(desired).await?;
        let used = self.beside.used_keys()?;
        let left = self.keeper.left().context("a look")?;
        let began = Instant::now();
        let plan =
            reconcile::plan(desired, &facts, left, &used).map_err(|all| anyhow!("{all:?}"))?;
        let planned = began.elapsed();
        ensure!(plan.steps.len() >= sas, "{} steps", plan.steps.len());
        drop((plan, facts, used));
        let wanted = desired.clone();
        // The peak is that of this phase.
        fs::write("/proc/self/clear_refs", "5").context("write /proc/self/clear_refs")?;
        let (user, system) = cpu()?;
        let began = Instant::now();
        if sas > 0 {
            self.keeper.want(wanted);
            let report = self.keeper.follow(|| false, &mut |_| {}).await?;
            let report = report.context("the keeper wants to look first")?;
            let problem = report.problems.iter().find(|problem| problem.closes);
            ensure!(
                report.is_complete(),
                "{does}: {:?}, {problem:?}",
                report.failed.first()
            );
            self.keeper.forget_keys();
        } else {
            let done = self.check().await?;
            ensure!(done == 0, "a check found {done} steps to do");
        }
        let took = began.elapsed();
        let after = cpu()?;
        let phase = self.phases.entry(does).or_default();
        phase.whole.push(took);
        phase.plan.push(planned);
        phase.user += after.0 - user;
        phase.system += after.1 - system;
        phase.sas = sas;
        phase.memory = Memory::now()?;
        for sa in desired.peers.values_mut().flat_map(|peer| &mut peer.sas) {
            sa.keying = Keying::Adopted;
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<usize> {
        let report = self.keeper.check(pending(), || false, &mut |_| {}).await?;
        ensure!(report.failed.is_empty(), "{:?}", report.failed.first());
        Ok(report.done.len())
    }
}

fn add(
    desired: &mut DataPlane,
    direction: Direction,
    (epoch, slot): (Epoch, Slot),
    lanes: u8,
) -> Result<()> {
    for peer in desired.peers.values_mut() {
        for lane in 0..lanes {
            peer.sas.push(SecurityAssociation {
                direction,
                epoch,
                slot,
                lane: Lane::new(lane)?,
                sender_generation: 1,
                receiver_generation: 1,
                keying: Keying::Keyed(keyring::random()?),
            });
        }
    }
    Ok(())
}

fn transmit(desired: &mut DataPlane, (epoch, slot): (Epoch, Slot), lanes: u8) {
    for peer in desired.peers.values_mut() {
        peer.transmit = Some(Transmit { epoch, slot, lanes });
    }
}
