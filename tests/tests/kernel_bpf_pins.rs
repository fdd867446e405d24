//! Loading, pinning, taking over and attaching the programs, on the running kernel.

use std::{
    collections::BTreeSet,
    fs,
    net::UdpSocket,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use overlay_agent::{
    dataplane::{
        desired::MapSizes,
        objects::{Attachment, Program},
    },
    kernel::{
        bpf::{self, Bpf, BpfError, Loader, Pinned, TcHook},
        redirect_peer,
    },
};
use overlay_ebpf::abi::{
    ABI_VERSION, Address, AddressKey, Config, Direction, DropReason, MarkLayout, Network,
    NetworkKey, Peer, PeerKey, PeerStats, TxState, Vtep, VtepKey, VtepRole, map, program,
};

/// Programs of the object.
const PROGRAMS: usize = 8;

const SIZES: MapSizes = MapSizes {
    networks: 16,
    local_ports: 16,
    endpoints: 64,
    addresses: 64,
    peers: 16,
    memberships: 64,
    flood_lists: 64,
    sas: 64,
    events: 4096,
};

/// The embedded object, or the one that `OVERLAY_BPF_OBJECT` names.
fn object() -> Option<&'static [u8]> {
    overlay_agent::bpf_object::BPF_OBJECT.or_else(|| {
        let path = std::env::var_os("OVERLAY_BPF_OBJECT")?;
        Some(fs::read(path).expect("OVERLAY_BPF_OBJECT").leak())
    })
}

/// Two network namespaces joined by `veth0`, 10.99.0.1 and 10.99.0.2; the test runs in the first.
struct Bed {
    here: String,
    there: String,
    /// Pin directory of the data plane under test.
    root: PathBuf,
    /// Pin directory of other software.
    other: PathBuf,
    object: &'static [u8],
}

impl Bed {
    fn load(&self, tc: TcHook) -> Bpf {
        self.loader(tc).load().unwrap()
    }

    fn loader(&self, tc: TcHook) -> Loader<'static> {
        Loader::new(&self.root)
            .object(self.object)
            .sizes(SIZES)
            .tc_hook(tc)
            .patience(Duration::from_millis(200))
    }

    fn pins(&self, directory: &str) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}")).join(directory)
    }
}

/// Runs a test in namespaces of its own and cleans up whatever its end.
fn bed(name: &str, body: impl FnOnce(&Bed) + Send) {
    let object = object().expect("the BPF programs inside: run `cargo xtask test`");
    assert!(
        is_root(),
        "these tests need root: run `cargo xtask test` as root"
    );
    let unique = format!("{name}-{}", std::process::id());
    let bed = Bed {
        here: format!("bp-{unique}-a"),
        there: format!("bp-{unique}-b"),
        root: format!("/sys/fs/bpf/overlay-test-{unique}").into(),
        other: format!("/sys/fs/bpf/overlay-test-{unique}-other").into(),
        object,
    };
    // A thread that has changed its namespace must serve nothing else.
    let result = thread::scope(|scope| {
        let test = scope.spawn(|| {
            let result = catch_unwind(AssertUnwindSafe(|| {
                set_up(&bed);
                enter(&bed.here);
                body(&bed);
            }));
            clean_up(&bed);
            result
        });
        test.join().and_then(|result| result)
    });
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_up(bed: &Bed) {
    let (a, b) = (&bed.here, &bed.there);
    for netns in [a, b] {
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link set lo up"));
    }
    const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
    let [mac_a, mac_b] = MACS;
    ip(&format!(
        "link add veth0 address {mac_a} netns {a} type veth peer name veth0 address {mac_b} netns {b}"
    ));
    for (netns, address, peer, mac) in [
        (a, "10.99.0.1", "10.99.0.2", mac_b),
        (b, "10.99.0.2", "10.99.0.1", mac_a),
    ] {
        ip(&format!("-n {netns} address add {address}/24 dev veth0"));
        ip(&format!("-n {netns} link set veth0 up"));
        // No resolution: its packets would be counted, or miss.
        ip(&format!(
            "-n {netns} neighbour add {peer} lladdr {mac} dev veth0 nud permanent"
        ));
    }
}

fn clean_up(bed: &Bed) {
    for root in [&bed.root, &bed.other] {
        if let Err(error) = bpf::clear(root) {
            eprintln!("clear {}: {error}", root.display());
        }
    }
    for netns in [&bed.here, &bed.there] {
        // May not exist if the set-up failed.
        let _ = run("ip", &format!("netns delete {netns}"));
    }
}

/// Moves the calling thread into a namespace.
fn enter(netns: &str) {
    let file = fs::File::open(format!("/run/netns/{netns}")).unwrap();
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .unwrap();
}

fn run(program: &str, arguments: &str) -> Output {
    Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn succeed(program: &str, arguments: &str) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn ip(arguments: &str) -> String {
    succeed("ip", arguments)
}

fn ifindex(device: &str) -> u32 {
    let line = ip(&format!("-o link show dev {device}"));
    line.split(':').next().unwrap().trim().parse().unwrap()
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .map(|listing| {
            listing
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

fn on(program: Program, device: &str) -> Attachment {
    Attachment {
        program,
        device: device.to_owned(),
    }
}

/// Programs of a data plane that let the host's own traffic pass.
fn underlay() -> [Attachment; 3] {
    [
        on(Program::UnderlayRxXdpNative, "veth0"),
        on(Program::UnderlayRx, "veth0"),
        on(Program::UnderlayAudit, "veth0"),
    ]
}

fn attach_all(bpf: &mut Bpf, attachments: &[Attachment]) {
    for attachment in attachments {
        bpf.attach(attachment, ifindex(&attachment.device)).unwrap();
    }
}

/// TC by each way that the running kernel has.
fn tc_hooks() -> Vec<TcHook> {
    let mut hooks = vec![TcHook::Clsact];
    if bpf::supports_tcx().unwrap() {
        hooks.push(TcHook::Tcx);
    }
    hooks
}

/// A configuration with which the programs run.
fn config() -> Config {
    Config {
        abi_version: 0,
        flags: 0,
        hop_ifindex: 0,
        reentry_ifindex: 0,
        xfrm_ifindex: 0,
        node: 1,
        event_sample: 1,
        mark: MarkLayout::DEFAULT,
        port: 4789,
        reentry_mac: [2, 0, 0, 0, 0, 1],
        esp_in_udp_port: 0,
        reserved: [0; 2],
    }
}

#[test]
fn a_fresh_load_pins_everything_and_clear_leaves_nothing() {
    bed("fresh", |bed| {
        assert!(Pinned::open(&bed.root).unwrap().is_none());
        for tc in tc_hooks() {
            let mut bpf = bed.load(tc);
            attach_all(&mut bpf, &underlay());
            let mut maps = map::ALL.map(str::to_owned);
            maps.sort();
            assert_eq!(entries(&bed.pins("maps")), maps);
            assert_eq!(entries(&bed.pins("progs")).len(), PROGRAMS);
            assert!(
                succeed("tc", "filter show dev veth0 egress").contains("underlay_audit")
                    ^ bpf.uses_tcx()
            );

            bpf.clear().unwrap();
            assert!(!bed.root.exists());
            assert_eq!(succeed("tc", "filter show dev veth0 ingress"), "");
            assert_eq!(succeed("tc", "filter show dev veth0 egress"), "");
            assert!(!ip("link show dev veth0").contains("xdp"));
            let locks = entries(Path::new("/run/overlay"));
            let ours = bed.root.file_name().unwrap().to_str().unwrap();
            assert!(!locks.iter().any(|lock| lock.contains(ours)), "{locks:?}");
            // Again, with nothing there.
            bpf::clear(&bed.root).unwrap();
        }
    });
}

#[test]
fn a_take_over_keeps_entries_programs_and_attachments() {
    bed("keep", |bed| {
        for tc in tc_hooks() {
            let mut bpf = bed.load(tc);
            attach_all(&mut bpf, &underlay());
            let (key, value) = (
                NetworkKey { vni: 4096 },
                Network {
                    flags: 1,
                    mtu: 1400,
                },
            );
            bpf.maps_mut().networks.put(&key, &value).unwrap();
            bpf.maps_mut().config.put(&config()).unwrap();
            let id = bpf.program_id(program::UNDERLAY_AUDIT);
            drop(bpf);

            let seen = Pinned::open(&bed.root).unwrap().unwrap();
            assert_eq!(
                seen.observe_attachments().unwrap(),
                BTreeSet::from(underlay())
            );

            let mut bpf = bed.load(tc);
            assert_eq!(bpf.program_id(program::UNDERLAY_AUDIT), id);
            let maps = bpf.observe_maps().unwrap();
            assert_eq!(maps.networks.get(&key), Some(&value));
            assert_eq!(
                maps.config,
                Some(Config {
                    abi_version: ABI_VERSION,
                    ..config()
                })
            );
            assert_eq!(
                bpf.observe_attachments().unwrap(),
                BTreeSet::from(underlay())
            );
            bpf.clear().unwrap();
        }
    });
}

/// Replaces all programs some times, with the data plane attached all the time.
fn take_over_repeatedly(bed: &Bed, tc: TcHook, mut bpf: Bpf, flood: &Flood) -> Bpf {
    const TAKE_OVERS: usize = 5;
    let attached = bpf.observe_attachments().unwrap();
    let mut ids = BTreeSet::from([bpf.program_id(program::UNDERLAY_RX)]);
    for _ in 0..TAKE_OVERS {
        drop(bpf);
        // Without pins of the programs a load cannot tell that they are the same.
        fs::remove_dir_all(bed.pins("progs")).unwrap();
        flood.goes_on();
        bpf = bed.load(tc);
        ids.insert(bpf.program_id(program::UNDERLAY_RX));
        assert_eq!(bpf.observe_attachments().unwrap(), attached);
    }
    flood.goes_on();
    assert_eq!(ids.len(), 1 + TAKE_OVERS);
    bpf
}

#[test]
fn a_take_over_with_new_programs_loses_no_packet() {
    bed("swap", |bed| {
        for tc in tc_hooks() {
            let mut bpf = bed.load(tc);
            attach_all(&mut bpf, &underlay());
            let flood = Flood::start(bed, Duration::from_secs(2));
            let bpf = take_over_repeatedly(bed, tc, bpf, &flood);
            let Tally { sent, returned } = flood.stop();
            println!("{tc:?}: {returned} of {sent} came back");
            assert!(sent > 1000);
            assert_eq!(sent, returned, "{tc:?}");
            bpf.clear().unwrap();
        }
    });
}

#[test]
fn a_take_over_leaves_no_moment_without_a_program() {
    bed("gap", |bed| {
        for tc in tc_hooks() {
            let mut bpf = bed.load(tc);
            attach_all(&mut bpf, &[on(Program::Sink, "veth0")]);
            let flood = Flood::start(bed, Duration::from_millis(1));
            let bpf = take_over_repeatedly(bed, tc, bpf, &flood);
            let Tally { sent, returned } = flood.stop();
            println!("{tc:?}: {returned} of {sent} came back");
            assert!(sent > 1000);
            assert_eq!(returned, 0, "{tc:?}: the sink let packets pass");
            bpf.clear().unwrap();
        }
    });
}

/// Datagrams from one namespace to the other and back, a window at a time.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<Tally>,
    /// Ends after the sender.
    stop_echo: Arc<AtomicBool>,
    echo: JoinHandle<()>,
}

struct Tally {
    sent: u64,
    returned: u64,
}

impl Flood {
    const WINDOW: u64 = 16;

    /// Each window ends when it has come back, or nothing has for `patience`.
    fn start(bed: &Bed, patience: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = |netns: &str, address, timeout| {
            enter(netns);
            let socket = UdpSocket::bind::<&str>(address).unwrap();
            socket.set_read_timeout(Some(timeout)).unwrap();
            socket
        };
        let stop_echo = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let echo = thread::spawn({
            let (netns, stop) = (bed.there.clone(), stop_echo.clone());
            move || {
                let socket = socket(&netns, "10.99.0.2:9000", Duration::from_millis(100));
                ready.send(()).unwrap();
                let mut data = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut data) {
                        socket.send_to(&data[..length], from).unwrap();
                    }
                }
            }
        });
        is_ready.recv().unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let (netns, stop, sent) = (bed.here.clone(), stop.clone(), sent.clone());
            move || {
                let socket = socket(&netns, "10.99.0.1:9000", patience);
                let mut tally = Tally {
                    sent: 0,
                    returned: 0,
                };
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..Self::WINDOW {
                        socket.send_to(&[7; 8], "10.99.0.2:9000").unwrap();
                        tally.sent += 1;
                    }
                    sent.store(tally.sent, Ordering::Relaxed);
                    let mut data = [0; 8];
                    for _ in 0..Self::WINDOW {
                        match socket.recv(&mut data) {
                            Ok(_) => tally.returned += 1,
                            Err(_) => break,
                        }
                    }
                }
                tally
            }
        });
        Self {
            stop,
            sent,
            sender,
            stop_echo,
            echo,
        }
    }

    /// Waits until some hundred more have been sent.
    fn goes_on(&self) {
        let enough = self.sent.load(Ordering::Relaxed) + 200;
        for _ in 0..6000 {
            if self.sent.load(Ordering::Relaxed) >= enough {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing has been sent for a minute");
    }

    fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let tally = self.sender.join().unwrap();
        self.stop_echo.store(true, Ordering::Relaxed);
        self.echo.join().unwrap();
        tally
    }
}

#[test]
fn every_program_attaches_is_seen_and_detaches() {
    bed("hooks", |bed| {
        ip("link add ep0 type veth peer name ep1");
        ip("link set ep0 up");
        let index = ifindex("ep0");
        for tc in tc_hooks() {
            let mut bpf = bed.load(tc);
            for program in [
                Program::EndpointTx,
                Program::Reentry,
                Program::UnderlayRxXdpGeneric,
                Program::UnderlayRx,
                Program::DecryptedRx,
                Program::UnderlayAudit,
                Program::UnderlayAuditL3,
                Program::Sink,
            ] {
                let attachment = on(program, "ep0");
                bpf.attach(&attachment, index).unwrap();
                // A second time changes nothing.
                bpf.attach(&attachment, index).unwrap();
                let seen = bpf.observe_attachments().unwrap();
                assert_eq!(seen, BTreeSet::from([attachment.clone()]), "{tc:?}");
                bpf.detach(&attachment, index).unwrap();
                bpf.detach(&attachment, index).unwrap();
                assert!(
                    bpf.observe_attachments().unwrap().is_empty(),
                    "{tc:?} {program:?}"
                );
            }
            bpf.clear().unwrap();
        }
    });
}

#[test]
fn xdp_changes_its_mode_and_detaching_the_old_mode_leaves_the_new() {
    bed("mode", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        let native = on(Program::UnderlayRxXdpNative, "veth0");
        let generic = on(Program::UnderlayRxXdpGeneric, "veth0");
        let veth = ifindex("veth0");
        bpf.attach(&generic, veth).unwrap();
        bpf.attach(&native, veth).unwrap();
        bpf.detach(&generic, veth).unwrap();
        assert_eq!(bpf.observe_attachments().unwrap(), BTreeSet::from([native]));
        succeed("ping", "-c 2 -i 0.1 -W 2 10.99.0.2");
    });
}

#[test]
fn native_xdp_on_a_driver_without_it_says_what_to_set() {
    bed("nodrv", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        let error = bpf
            .attach(&on(Program::UnderlayRxXdpNative, "lo"), ifindex("lo"))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("on lo") && text.contains("the mode `generic` or `off`"),
            "{text}"
        );
        assert!(!ip("link show dev lo").contains("xdp"));
    });
}

#[test]
fn a_device_that_vanishes_takes_its_pins_along() {
    bed("gone", |bed| {
        for tc in tc_hooks() {
            ip("link add veth1 type veth peer name veth2");
            let index = ifindex("veth1");
            let mut bpf = bed.load(tc);
            let attachments = [
                on(Program::UnderlayRxXdpNative, "veth1"),
                on(Program::EndpointTx, "veth1"),
                on(Program::UnderlayAudit, "veth1"),
            ];
            attach_all(&mut bpf, &attachments);
            ip("link delete veth1");
            assert!(bpf.observe_attachments().unwrap().is_empty());
            assert_eq!(entries(&bed.pins("links")), [""; 0]);
            // A late detach of what is gone is none.
            for attachment in &attachments {
                bpf.detach(attachment, index).unwrap();
            }
            let error = bpf.attach(&attachments[1], index).unwrap_err();
            assert!(error.to_string().contains("veth1"), "{error}");
            bpf.clear().unwrap();
        }
    });
}

#[test]
fn a_device_recreated_with_the_same_index_gets_a_link_of_its_own() {
    bed("again", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        let attachment = on(Program::EndpointTx, "ep0");
        for _ in 0..2 {
            ip("link add ep0 index 77 type veth peer name ep1");
            bpf.attach(&attachment, 77).unwrap();
            assert_eq!(
                bpf.observe_attachments().unwrap(),
                BTreeSet::from([attachment.clone()])
            );
            ip("link delete ep0");
        }
    });
}

#[test]
fn the_xdp_program_of_others_is_named_and_left_alone() {
    bed("foreign", |bed| {
        let mut theirs = Loader::new(&bed.other)
            .object(bed.object)
            .sizes(SIZES)
            .load()
            .unwrap();
        let xdp = on(Program::UnderlayRxXdpNative, "veth0");
        theirs.attach(&xdp, ifindex("veth0")).unwrap();
        let id = theirs.program_id(program::UNDERLAY_RX_XDP).unwrap();

        let mut ours = bed.load(TcHook::Auto);
        for mode in [Program::UnderlayRxXdpNative, Program::UnderlayRxXdpGeneric] {
            let error = ours
                .attach(&on(mode, "veth0"), ifindex("veth0"))
                .unwrap_err();
            match &error {
                BpfError::ForeignXdp { program, .. } => {
                    assert_eq!(program.id, id);
                    assert!("underlay_rx_xdp".starts_with(&program.name));
                }
                other => panic!("{other}"),
            }
            assert!(error.to_string().contains("xdp off"), "{error}");
        }
        assert!(ours.observe_attachments().unwrap().is_empty());
        // Neither does clearing ours touch theirs.
        ours.clear().unwrap();
        assert_eq!(theirs.observe_attachments().unwrap(), BTreeSet::from([xdp]));
    });
}

#[test]
fn our_tc_programs_run_before_those_of_others() {
    bed("order", |bed| {
        if !bpf::supports_tcx().unwrap() {
            eprintln!("left out: no TCX before 6.6, and clsact orders by priority");
            return;
        }
        let other = || {
            Loader::new(&bed.other)
                .object(bed.object)
                .sizes(SIZES)
                .load()
                .unwrap()
        };
        let audit = on(Program::UnderlayAudit, "veth0");
        let veth = ifindex("veth0");
        let mut theirs = other();
        theirs.attach(&audit, veth).unwrap();
        let mut ours = bed.load(TcHook::Auto);
        ours.attach(&audit, veth).unwrap();
        assert_eq!(ours.programs_before(&audit, veth).unwrap(), []);

        // Whoever insists on being first is seen.
        theirs.clear().unwrap();
        let mut theirs = other();
        theirs.attach(&audit, veth).unwrap();
        let before = ours.programs_before(&audit, veth).unwrap();
        assert_eq!(before.len(), 1);
        assert_eq!(
            Some(before[0].id),
            theirs.program_id(program::UNDERLAY_AUDIT)
        );
        assert!("underlay_audit".starts_with(&before[0].name));

        let doctor = Command::new(overlay_tests::lab::overlay_binary().unwrap())
            .arg("--pin-dir")
            .arg(&bed.root)
            .args(["doctor", "--format", "json"])
            .output()
            .unwrap();
        let checks: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let order = checks
            .as_array()
            .and_then(|checks| {
                checks
                    .iter()
                    .find(|check| check["check"] == "program order")
            })
            .unwrap();
        assert_eq!(order["verdict"], "warn", "{order}");
        let detail = order["detail"].as_str().unwrap();
        assert!(
            detail.contains(&format!("(id {}) runs before", before[0].id))
                && detail.contains("veth0"),
            "{detail}"
        );
    });
}

#[test]
fn a_pin_directory_serves_one_namespace() {
    bed("netns", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        if !bpf.uses_tcx() {
            eprintln!("left out: clsact filters have no pins");
            return;
        }
        ip("link add ep0 index 77 type veth peer name ep1");
        let attachment = on(Program::UnderlayRx, "ep0");
        bpf.attach(&attachment, 77).unwrap();
        enter(&bed.there);
        ip("link add ep0 index 77 type veth peer name ep1");
        assert!(bpf.observe_attachments().unwrap().is_empty());
        let error = bpf.attach(&attachment, 77).unwrap_err();
        assert!(matches!(error, BpfError::OtherNamespace { .. }), "{error}");
        enter(&bed.here);
        assert_eq!(
            bpf.observe_attachments().unwrap(),
            BTreeSet::from([attachment])
        );
    });
}

#[test]
fn a_map_of_another_size_is_refused_by_name_and_nothing_changes() {
    bed("size", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        attach_all(&mut bpf, &underlay());
        drop(bpf);
        let error = bed
            .loader(TcHook::Auto)
            .sizes(MapSizes {
                addresses: 128,
                ..SIZES
            })
            .load()
            .unwrap_err();
        let text = error.to_string();
        for part in [
            "`addresses`",
            "max_entries 64",
            "wanted is 128",
            "set `map_sizes.addresses` to 64",
            "overlay dataplane clear",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut bpf = bed.load(TcHook::Auto);
        assert_eq!(
            bpf.observe_attachments().unwrap(),
            BTreeSet::from(underlay())
        );
    });
}

#[test]
fn a_map_of_another_shape_is_refused() {
    bed("shape", |bed| {
        drop(bed.load(TcHook::Auto));
        let pin = bed.pins("maps").join(map::VTEPS);
        for (shape, property) in [
            (
                "type hash key 16 value 12 entries 16 name vteps flags 1",
                "value size",
            ),
            (
                "type hash key 8 value 8 entries 16 name vteps flags 1",
                "key size",
            ),
            (
                "type hash key 16 value 8 entries 16 name vteps flags 0",
                "flags",
            ),
            (
                "type lru_hash key 16 value 8 entries 16 name vteps flags 0",
                "type",
            ),
        ] {
            fs::remove_file(&pin).unwrap();
            succeed("bpftool", &format!("map create {} {shape}", pin.display()));
            let error = bed.loader(TcHook::Auto).load().unwrap_err();
            match error {
                BpfError::MapMismatch {
                    map: map::VTEPS,
                    property: found,
                    ..
                } => assert_eq!(found, property),
                other => panic!("{other}"),
            }
        }
    });
}

#[test]
fn pins_of_another_abi_version_are_refused_and_can_be_cleared() {
    bed("abi", |bed| {
        drop(bed.load(TcHook::Auto));
        fs::rename(bed.pins(""), bed.root.join("v999")).unwrap();
        let text = bed.loader(TcHook::Auto).load().unwrap_err().to_string();
        assert!(
            text.contains("version 999") && text.contains(&format!("version {ABI_VERSION}")),
            "{text}"
        );
        assert!(matches!(
            Pinned::open(&bed.root),
            Err(BpfError::OtherAbi { .. })
        ));
        bpf::clear(&bed.root).unwrap();
        assert!(!bed.root.exists());
        drop(bed.load(TcHook::Auto));
    });
}

#[test]
fn a_root_that_others_may_write_to_is_refused() {
    bed("owner", |bed| {
        use std::os::unix::fs::PermissionsExt as _;
        drop(bed.load(TcHook::Auto));
        fs::set_permissions(&bed.root, fs::Permissions::from_mode(0o777)).unwrap();
        let error = bed.loader(TcHook::Auto).load().unwrap_err();
        assert!(matches!(error, BpfError::UnsafeOwner { .. }), "{error}");
        fs::set_permissions(&bed.root, fs::Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn a_second_process_waits_and_then_names_the_first() {
    bed("lock", |bed| {
        let bpf = bed.load(TcHook::Auto);
        let start = Instant::now();
        match bed.loader(TcHook::Auto).load().unwrap_err() {
            BpfError::Locked { holder, .. } => assert_eq!(holder, Some(std::process::id())),
            other => panic!("{other}"),
        }
        assert!(start.elapsed() >= Duration::from_millis(200));
        // Looking needs no lock.
        assert!(Pinned::open(&bed.root).unwrap().is_some());
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                bed.loader(TcHook::Auto)
                    .patience(Duration::from_secs(10))
                    .load()
            });
            thread::sleep(Duration::from_millis(100));
            drop(bpf);
            waiting.join().unwrap().unwrap();
        });
    });
}

/// Names the pin directory for the process that is to be killed.
const VICTIM: &str = "OVERLAY_TEST_VICTIM_OF";

#[test]
fn a_load_killed_at_any_moment_is_completed_by_the_next() {
    if let Some(root) = std::env::var_os(VICTIM) {
        victim(Path::new(&root));
    }
    bed("kill", |bed| {
        const ROUNDS: u32 = 16;
        let start = Instant::now();
        let mut bpf = bed.load(TcHook::Auto);
        attach_all(&mut bpf, &underlay());
        let once = start.elapsed();
        bpf.clear().unwrap();
        let mut whole = 0;
        for round in 0..ROUNDS {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "a_load_killed_at_any_moment_is_completed_by_the_next",
                ])
                .env(VICTIM, &bed.root)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            // Up to the second take-over.
            thread::sleep(3 * once * round / ROUNDS);
            child.kill().unwrap();
            child.wait().unwrap();
            // What it left is taken over as it is, or cleared.
            if round % 2 == 0 {
                let mut bpf = bed.load(TcHook::Auto);
                whole += usize::from(bpf.observe_attachments().unwrap().len() == 3);
                attach_all(&mut bpf, &underlay());
                assert_eq!(
                    bpf.observe_attachments().unwrap(),
                    BTreeSet::from(underlay())
                );
                assert_eq!(entries(&bed.pins("progs")).len(), PROGRAMS);
                succeed("ping", "-c 1 -W 2 10.99.0.2");
            } else {
                bpf::clear(&bed.root).unwrap();
                assert!(!bed.root.exists());
                assert!(!ip("link show dev veth0").contains("xdp"));
            }
        }
        println!(
            "{whole} of {} take-overs found everything attached",
            ROUNDS / 2
        );
    });
}

/// Loads, attaches, and replaces its programs until it is killed.
fn victim(root: &Path) -> ! {
    loop {
        let mut bpf = Loader::new(root)
            .object(object().unwrap())
            .sizes(SIZES)
            .load()
            .unwrap();
        attach_all(&mut bpf, &underlay());
        fs::remove_dir_all(root.join(format!("v{ABI_VERSION}/progs"))).unwrap();
    }
}

#[test]
fn entries_are_written_read_and_deleted() {
    bed("entry", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        let maps = bpf.maps_mut();
        let key = PeerKey { peer: 7 };
        let peer = Peer {
            tx: TxState {
                epoch: 3,
                slot: 255,
                lanes: 4,
                reserved: [0; 2],
            },
            vtep: [1; 16],
            local_vtep: [2; 16],
            underlay_ifindex: 3,
            underlay_mtu: 1500,
        };
        assert_eq!(maps.peers.get(&key).unwrap(), None);
        assert!(!maps.peers.delete(&key).unwrap());
        maps.peers.put(&key, &peer).unwrap();
        assert_eq!(maps.peers.get(&key).unwrap(), Some(peer));
        assert_eq!(
            bpf.peer_stats().unwrap().get(&key),
            Some(&PeerStats::default())
        );
        assert_eq!(bpf.observe_maps().unwrap().peers.get(&key), Some(&peer));
        assert!(bpf.maps_mut().peers.delete(&key).unwrap());
        assert!(bpf.peer_stats().unwrap().is_empty());
        assert_eq!(bpf.observe_maps().unwrap(), bpf::ObservedMaps::default());
    });
}

#[test]
fn a_full_map_names_itself_and_its_setting() {
    bed("full", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        let vtep = Vtep {
            role: VtepRole::Remote,
            peer: 1,
        };
        // A map without preallocation may take a few entries more per CPU.
        let error = (0..10_000u32)
            .find_map(|number| {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&number.to_be_bytes());
                bpf.maps_mut().vteps.put(&VtepKey { address }, &vtep).err()
            })
            .expect("the map fills up");
        let text = error.to_string();
        assert!(
            text.contains("`vteps` is full") && text.contains("map_sizes.peers"),
            "{text}"
        );
    });
}

#[test]
fn an_entry_that_is_none_is_an_error_that_names_map_and_key() {
    bed("bad", |bed| {
        let bpf = bed.load(TcHook::Auto);
        let pin = bed.pins("maps").join(map::VTEPS);
        let key = "10 ".repeat(16);
        succeed(
            "bpftool",
            &format!(
                "map update pinned {} key {key} value 9 0 0 0 1 0 0 0",
                pin.display()
            ),
        );
        let text = bpf.observe_maps().unwrap_err().to_string();
        assert!(
            text.contains("`vteps`") && text.contains(&"0a".repeat(16)),
            "{text}"
        );
    });
}

#[test]
fn writing_and_reading_entries_is_fast_enough_without_batches() {
    bed("rate", |bed| {
        const ENTRIES: u32 = 50_000;
        let mut bpf = bed
            .loader(TcHook::Auto)
            .sizes(MapSizes {
                addresses: ENTRIES,
                ..SIZES
            })
            .load()
            .unwrap();
        let value = Address {
            mac: [2, 0x42, 0, 0, 0, 1],
            reserved: [0; 2],
        };
        let key = |number: u32| {
            let mut address = [0; 16];
            address[12..].copy_from_slice(&number.to_be_bytes());
            AddressKey { vni: 4096, address }
        };
        let rate = |count: u32, start: Instant| f64::from(count) / start.elapsed().as_secs_f64();
        let maps = bpf.maps_mut();
        let start = Instant::now();
        for number in 0..ENTRIES {
            maps.addresses.put(&key(number), &value).unwrap();
        }
        let put = rate(ENTRIES, start);
        // Each waits for the readers of the one before.
        const REPLACED: u32 = 50;
        let start = Instant::now();
        for number in 0..REPLACED {
            maps.addresses.put(&key(number), &value).unwrap();
        }
        let replace = rate(REPLACED, start);
        let start = Instant::now();
        assert_eq!(maps.addresses.read().unwrap().len(), ENTRIES as usize);
        let read = rate(ENTRIES, start);
        let start = Instant::now();
        for number in 0..ENTRIES {
            assert!(maps.addresses.delete(&key(number)).unwrap());
        }
        let delete = rate(ENTRIES, start);
        println!(
            "entries/s: put {put:.0}, replace {replace:.0}, read {read:.0}, delete {delete:.0}"
        );
    });
}

#[test]
fn drops_are_counted_and_reported_as_they_happen() {
    bed("drop", |bed| {
        let mut bpf = bed.load(TcHook::Auto);
        bpf.maps_mut().config.put(&config()).unwrap();
        let sink = on(Program::Sink, "veth0");
        bpf.attach(&sink, ifindex("veth0")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let event = runtime.block_on(async {
            let mut events = bpf.events().unwrap();
            let lost = tokio::task::spawn_blocking({
                let there = bed.there.clone();
                move || {
                    thread::sleep(Duration::from_millis(300));
                    run(
                        "ip",
                        &format!("netns exec {there} ping -c 3 -i 0.1 -W 1 10.99.0.1"),
                    )
                }
            });
            let event = tokio::time::timeout(Duration::from_secs(10), events.next())
                .await
                .expect("an event within ten seconds")
                .unwrap();
            assert!(
                !lost.await.unwrap().status.success(),
                "the sink let a ping pass"
            );
            event
        });
        assert!(event.time > 0 && event.length > 0);
        let drops = bpf.drops().unwrap();
        let count = drops[&(event.reason, event.direction)];
        assert!(count.packets >= 1 && count.bytes >= 14, "{drops:?}");
        assert!(DropReason::ALL.contains(&event.reason));
        assert!(Direction::ALL.contains(&event.direction));
    });
}

#[test]
fn the_verifier_accepts_every_program() {
    bed("verify", |bed| {
        for verified in Bpf::verify_object(bed.object).unwrap() {
            let report = verified.outcome.unwrap();
            println!("{}: {report:?}", verified.program);
            assert!(report.verified_insns.is_some_and(|count| count > 0));
        }
        assert!(!bed.root.exists());
    });
}

#[test]
fn a_refused_program_comes_with_the_end_of_the_verifiers_log() {
    bed("refuse", |bed| {
        // Under another licence the GPL-only helpers are refused.
        const LICENSE: &[u8] = b"Dual MIT/GPL\0";
        let mut object = bed.object.to_vec();
        let position = object
            .windows(LICENSE.len())
            .position(|window| window == LICENSE)
            .unwrap();
        object[position..][..LICENSE.len()].copy_from_slice(b"Proprietary!\0");
        let error = Loader::new(&bed.root)
            .object(&object)
            .sizes(SIZES)
            .load()
            .unwrap_err();
        match &error {
            BpfError::Verifier { log, .. } => {
                assert!(log.contains("GPL"), "{error}");
                assert!(log.lines().count() <= 40, "{error}");
            }
            other => panic!("{other}"),
        }
        assert!(!bed.root.exists(), "a refused load pins nothing");
    });
}

#[test]
fn the_object_loads_with_bpftool_and_maps_print_by_name() {
    bed("tool", |bed| {
        let object = PathBuf::from(format!("/tmp/{}.o", bed.here));
        fs::write(&object, bed.object).unwrap();
        fs::create_dir(&bed.root).unwrap();
        let result = run(
            "bpftool",
            &format!(
                "prog loadall {} {}/progs pinmaps {}/maps",
                object.display(),
                bed.root.display(),
                bed.root.display()
            ),
        );
        fs::remove_file(&object).unwrap();
        assert!(
            result.status.success(),
            "{}",
            String::from_utf8_lossy(&result.stderr)
        );
        assert_eq!(entries(&bed.root.join("progs")).len(), PROGRAMS);
        fs::remove_dir_all(&bed.root).unwrap();

        let mut bpf = bed.load(TcHook::Auto);
        bpf.maps_mut().config.put(&config()).unwrap();
        bpf.maps_mut()
            .vteps
            .put(
                &VtepKey { address: [1; 16] },
                &Vtep {
                    role: VtepRole::Remote,
                    peer: 42,
                },
            )
            .unwrap();
        for (map, words) in [
            (map::CONFIG, ["abi_version", "reentry_mac", "port"]),
            (map::VTEPS, ["address", "Remote", "peer"]),
        ] {
            let pin = bed.pins("maps").join(map);
            let dump = succeed("bpftool", &format!("map dump pinned {}", pin.display()));
            for word in words {
                assert!(dump.contains(word), "{word}: {dump}");
            }
        }
    });
}

#[test]
fn features_are_what_the_kernel_release_promises() {
    bed("probe", |_| {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
        let release: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(bpf::supports_tcx().unwrap(), release >= (6, 6));
        assert_eq!(bpf::supports_decap_l3().unwrap(), release >= (6, 3));
        let scrubs = tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(redirect_peer::scrubs())
            .unwrap();
        println!("bpf_redirect_peer scrubs: {scrubs}");
        // Stable kernels before have it or not, which is why it is tried.
        assert!(scrubs || release < (6, 16));
    });
}
