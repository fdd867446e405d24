//! The applier over the running kernel, in a network namespace of its own: plain networks.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::Instant,
};

use overlay_ebpf::abi::{MacAddr, Vni};
use tempfile::TempDir;

use super::{path::HostPath, *};
use crate::{
    daemon::node::testing::in_namespace,
    dataplane::{
        desired::{
            LocalEndpoint, MapSizes, NetnsRef, Network, Node, Peer, RemoteEndpoint, Settings,
        },
        endpoint_name::host_device_name,
    },
    kernel::{features::unshare_network, host::Directories},
    state::last_desired::LastDesired,
};

const LONG: Duration = Duration::from_secs(60);

/// Network namespaces of containers; they end with this.
struct Containers(Vec<File>);

impl Containers {
    fn new(number: usize) -> Self {
        let make = |_| {
            let made = thread::spawn(|| {
                unshare_network().unwrap();
                File::open("/proc/thread-self/ns/net").unwrap()
            });
            made.join().unwrap()
        };
        Self((0..number).map(make).collect())
    }

    fn netns(&self, number: usize) -> NetnsRef {
        let file = &self.0[number % self.0.len()];
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        NetnsRef::Path(path.into())
    }

    fn endpoint(&self, number: usize) -> LocalEndpoint {
        let [high, low] = (u16::try_from(number).unwrap() + 1).to_be_bytes();
        let ip = [10, 9, high, low];
        LocalEndpoint {
            vni: vni(),
            name: format!("web-{number}"),
            netns: self.netns(number),
            interface: format!("eth{}", number / self.0.len()),
            mac: MacAddr::from_ipv4(ip),
            // Several stand in one namespace, without a route of their own.
            addresses: vec![(ip.into(), 32)],
            routes: Vec::new(),
        }
    }
}

fn vni() -> Vni {
    Vni::new(4096).unwrap()
}

fn ip(arguments: &str) -> String {
    let done = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(done.status.success(), "ip {arguments}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// Node 1 on a wire, and what it wants.
struct Lab {
    directories: Directories,
    _files: TempDir,
    applier: Applier,
    news: mpsc::Receiver<News>,
    attempt: u64,
    desired: DataPlane,
}

impl Lab {
    async fn new(peers: u8) -> Self {
        ip("link add wire0 type veth peer name wire1");
        ip("addr add 198.51.100.1/24 dev wire0");
        ip("link set wire0 up");
        ip("link set wire1 up");
        let files = TempDir::new().unwrap();
        let name = files.path().file_name().unwrap().to_str().unwrap();
        let directories = Directories {
            pins: Path::new("/sys/fs/bpf").join(format!("ovl-node-test-{}", &name[1..])),
            state: files.path().join("state"),
            run: files.path().join("run"),
        };
        let network = Network {
            name: "green".into(),
            vni: vni(),
            encrypted: false,
            replicate: false,
            mtu: None,
            mtu_at_most: None,
        };
        let peer = |number: u8| Peer {
            index: PeerIndex::new(number.into()).unwrap(),
            name: format!("node-{number}"),
            vtep: [198, 51, 100, number].into(),
            networks: [vni()].into(),
            transmit: None,
            sas: Vec::new(),
        };
        let desired = DataPlane {
            node: Node {
                index: PeerIndex::new(1).unwrap(),
                name: "node-1".into(),
                vteps: vec![[198, 51, 100, 1].into()],
            },
            settings: Settings {
                map_sizes: MapSizes {
                    events: 4096,
                    ..MapSizes::default()
                },
                ..Settings::default()
            },
            networks: [(vni(), network)].into(),
            peers: (2..2 + peers)
                .map(peer)
                .map(|peer| (peer.index, peer))
                .collect(),
            local_endpoints: Vec::new(),
            remote_endpoints: Default::default(),
        };
        let empty = DataPlane {
            networks: BTreeMap::new(),
            peers: BTreeMap::new(),
            ..desired.clone()
        };
        let (applier, news) = start(directories.clone(), empty).await;
        Self {
            directories,
            _files: files,
            applier,
            news,
            attempt: 0,
            desired,
        }
    }

    /// Wants what is desired now, and waits until the kernel has had its chance.
    fn apply(&mut self) -> (Outcome, Duration) {
        self.attempt += 1;
        let began = Instant::now();
        self.applier
            .orders
            .apply(self.attempt, Box::new(self.desired.clone()));
        loop {
            if let News::Outcome(outcome) = self.news.recv_timeout(LONG).unwrap()
                && outcome.attempt == self.attempt
            {
                return (outcome, began.elapsed());
            }
        }
    }

    fn applied(&mut self) -> Duration {
        let (outcome, took) = self.apply();
        assert_eq!(outcome.refused, BTreeMap::new(), "{:?}", outcome.problems);
        took
    }

    /// Waits for what the applier tells.
    fn told(&self, what: &str) {
        let began = Instant::now();
        while began.elapsed() < LONG {
            if let News::Told(told) = self.news.recv_timeout(LONG).unwrap()
                && told.to_string().contains(what)
            {
                return;
            }
        }
        panic!("not told: {what}");
    }

    async fn restart(&mut self) {
        self.applier.stop().await;
        let empty = DataPlane {
            local_endpoints: Vec::new(),
            remote_endpoints: Default::default(),
            ..self.desired.clone()
        };
        (self.applier, self.news) = start(self.directories.clone(), empty).await;
        self.attempt = 0;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What a test that failed has left.
        let _gone = std::fs::remove_dir_all(&self.directories.pins);
    }
}

async fn start(directories: Directories, empty: DataPlane) -> (Applier, mpsc::Receiver<News>) {
    let started = Applier::start(move || HostPath::new(directories, empty)).await;
    let (applier, found, begin) = started.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found, Found::new());
    let (sender, news) = mpsc::channel();
    begin.tell(move |told| {
        let _gone = sender.send(told);
    });
    (applier, news)
}

fn device(endpoint: &LocalEndpoint) -> String {
    host_device_name(endpoint.vni, endpoint.mac)
}

/// The pins below a directory.
fn pins(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .flat_map(|path| {
            if path.is_dir() {
                pins(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn the_kernel_follows_is_repaired_taken_over_and_cleared() {
    in_namespace(async {
        let mut lab = Lab::new(1).await;
        let containers = Containers::new(2);
        let (first, second) = (containers.endpoint(0), containers.endpoint(1));
        lab.desired.local_endpoints = vec![first.clone()];
        lab.applied();
        ip(&format!("link show {}", device(&first)));
        lab.desired.local_endpoints.push(second.clone());
        lab.applied();
        ip(&format!("link show {}", device(&second)));

        // Others change it.
        ip(&format!("link del {}", device(&second)));
        lab.told("alarm: ");
        lab.told("repaired: ");
        ip(&format!("link show {}", device(&second)));

        // What cannot be made is named and takes nothing else along.
        let missing = LocalEndpoint {
            netns: NetnsRef::Name("no-such-namespace".into()),
            ..containers.endpoint(5)
        };
        lab.desired.local_endpoints.push(missing.clone());
        let (outcome, _) = lab.apply();
        assert_eq!(
            outcome.refused.keys().collect::<Vec<_>>(),
            [&device(&missing)],
            "{:?}",
            outcome.problems
        );
        lab.desired.local_endpoints.pop();
        lab.applied();

        // The record is what is wanted, and the next agent takes over without a change.
        lab.restart().await;
        let record = LastDesired::read(&lab.directories.run).unwrap().unwrap();
        assert_eq!(record.desired().unwrap(), lab.desired);
        ip(&format!("link show {}", device(&first)));
        let index = ip(&format!("-o link show {}", device(&first)));
        lab.applied();
        assert_eq!(ip(&format!("-o link show {}", device(&first))), index);

        // An endpoint goes.
        lab.desired.local_endpoints.remove(0);
        lab.applied();
        assert!(!ip("-o link").contains(&device(&first)));

        lab.applier.orders.clear().await.unwrap().unwrap();
        lab.applier.stop().await;
        assert!(!ip("-o link").contains("ovl"), "{}", ip("-o link"));
        assert_eq!(pins(&lab.directories.pins), Vec::<PathBuf>::new());
        assert!(LastDesired::read(&lab.directories.run).unwrap().is_none());
    });
}

/// The percentiles of what is at the end of a run.
fn figures(what: &str, times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{what}: median {:?}, 99 % {:?}, longest {:?}",
        at(50),
        at(99),
        at(100)
    );
    at(99)
}

/// The figures that issue 4 asks for. It takes a minute.
#[test]
#[ignore = "a measurement: cargo test --release -p overlay-agent --lib figures_of -- --ignored --nocapture"]
fn figures_of_attaching_and_of_many_remote_endpoints() {
    in_namespace(async {
        const ENDPOINTS: usize = 1000;
        const REMOTE: usize = 50_000;
        const PEERS: usize = 50;
        let mut lab = Lab::new(PEERS as u8).await;
        let containers = Containers::new(250);
        lab.applied();
        let attach = |lab: &mut Lab, numbers: std::ops::Range<usize>| -> Vec<Duration> {
            numbers
                .map(|number| {
                    lab.desired
                        .local_endpoints
                        .push(containers.endpoint(number));
                    lab.applied()
                })
                .collect()
        };
        let mut filling = attach(&mut lab, 0..ENDPOINTS - 200);
        figures("attach, up to 800 endpoints", &mut filling);
        let mut full = attach(&mut lab, ENDPOINTS - 200..ENDPOINTS);
        let slowest = figures("attach, 800 to 1,000 endpoints", &mut full);

        let many = (0..REMOTE).map(|number| {
            let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
            let ip = [10, 9, high.wrapping_add(16), low];
            RemoteEndpoint {
                vni: vni(),
                peer: PeerIndex::new(u32::try_from(number % PEERS).unwrap() + 2).unwrap(),
                mac: MacAddr([2, 0x42, 11, high, low, 1]),
                addresses: [ip.into()].into(),
            }
        });
        lab.desired.remote_endpoints = many.collect();
        let took = lab.applied();
        println!("{REMOTE} remote endpoints at once: {took:?}");
        let mut beside = attach(&mut lab, ENDPOINTS..ENDPOINTS + 100);
        figures("attach beside 50,000 remote endpoints", &mut beside);
        lab.desired.remote_endpoints = Default::default();
        println!("and out again: {:?}", lab.applied());
        lab.applier.orders.clear().await.unwrap().unwrap();
        lab.applier.stop().await;
        if !cfg!(debug_assertions) {
            assert!(slowest <= Duration::from_millis(50), "{slowest:?}");
            assert!(took <= Duration::from_secs(1), "{took:?}");
        }
    });
}
