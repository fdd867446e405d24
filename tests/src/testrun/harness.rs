//! The loaded programs, and how a row is held against them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use aya::{
    maps::{Array, Map, MapData, RingBuf},
    programs::Program,
};
use bytemuck::{Pod, Zeroable};
use overlay_agent::{
    bpf_object::BPF_OBJECT,
    dataplane::desired::MapSizes,
    kernel::bpf::{Bpf, supports_decap_l3},
};
use overlay_ebpf::abi::{
    ABI_VERSION, Config, Direction, DropEvent, DropReason, PacketCount, PeerKey, PeerStats, map,
    program,
};

use super::{
    capture::Capture,
    row::{Row, Traffic},
    shim::{self, Shim, SkBuff},
    sys,
    world::{World, device},
};

const CONFIG_SIZE: usize = size_of::<Config>();
const PIN_ROOT: &str = "/sys/fs/bpf/overlay-testrun";

/// Enough for every row.
const SIZES: MapSizes = MapSizes {
    networks: 16,
    local_ports: 16,
    endpoints: 64,
    addresses: 128,
    peers: 16,
    memberships: 16,
    flood_lists: 128,
    sas: 16,
    events: 1 << 16,
};

/// Ends that listen where a row says what clones must arrive.
const LISTENING: [u32; 6] = [
    device::A + 100,
    device::B + 100,
    device::SECRET_A + 100,
    device::SECRET_B + 100,
    device::REENTRY,
    device::WIRE,
];

/// The programs, loaded once per test process.
pub struct Harness {
    bpf: Bpf,
    /// Written bare: `ConfigMap` does not unconfigure.
    config: Array<MapData, [u8; CONFIG_SIZE]>,
    /// Read bare: [`Bpf::events`] is for an async runtime.
    events: RingBuf<MapData>,
    shim: Shim,
    decap_l3: bool,
}

/// `struct xdp_md` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// What a program did, whatever its kind.
struct Ran {
    verdict: u32,
    data: Vec<u8>,
    mark: u32,
    origin: u16,
    nanoseconds: u32,
}

/// How one run for [`Harness::time`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    pub verdict: u32,
    /// Of the program alone, as the kernel measures it.
    pub nanoseconds: u32,
}

/// Counters and records at one moment.
struct Counts {
    drops: BTreeMap<(DropReason, Direction), PacketCount>,
    peers: BTreeMap<PeerKey, PeerStats>,
}

impl Harness {
    /// The loaded programs; `None` where they cannot be loaded, see [`Self::missing`].
    pub fn ready() -> Option<MutexGuard<'static, Self>> {
        static HARNESS: OnceLock<Option<Mutex<Harness>>> = OnceLock::new();
        let harness = HARNESS.get_or_init(|| match Self::missing() {
            Some(_) => None,
            None => Some(Mutex::new(Self::load(&SIZES).expect("the programs load"))),
        });
        harness
            .as_ref()
            .map(|harness| harness.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What loading the programs lacks here. It is said aloud; and under `cargo xtask test`, which
    /// promises to run the test, it is a panic.
    pub fn missing() -> Option<&'static str> {
        let missing = if BPF_OBJECT.is_none() {
            "the BPF object is not built"
        } else if !rustix::process::geteuid().is_root() {
            "not root"
        } else {
            return None;
        };
        assert!(
            std::env::var_os("OVERLAY_BIN").is_none(),
            "cannot test the programs: {missing}"
        );
        eprintln!("left out: {missing}; `cargo xtask test`, as root, does what is needed");
        Some(missing)
    }

    /// The programs with maps of these sizes, in a place of [`super::place::inside`].
    pub fn load(sizes: &MapSizes) -> Result<Self, Box<dyn std::error::Error>> {
        // The thread has a mount namespace of its own: the pins end with it, the programs stay as
        // long as their descriptors.
        let bpf = Bpf::load(Path::new(PIN_ROOT), sizes)?;
        let open = |name| -> Result<Map, Box<dyn std::error::Error>> {
            let path = format!("{PIN_ROOT}/v{ABI_VERSION}/maps/{name}");
            Ok(Map::from_map_data(MapData::from_pin(path)?)?)
        };
        Ok(Self {
            config: Array::try_from(open(map::CONFIG)?)?,
            events: RingBuf::try_from(open(map::EVENTS)?)?,
            bpf,
            shim: Shim::load()?,
            decap_l3: supports_decap_l3()?,
        })
    }

    /// Whether the kernel knows `BPF_F_ADJ_ROOM_DECAP_L3_*` (6.3).
    pub fn supports_decap_l3(&self) -> bool {
        self.decap_l3
    }

    /// Runs the row; an error lists all that does not hold.
    pub fn check(&mut self, row: &Row) -> Result<(), String> {
        let mut wrong = String::new();
        if let Err(error) = self.hold(row, &mut wrong) {
            let _ = writeln!(wrong, "    {error}");
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{}: {}\n{wrong}", row.program, row.name))
        }
    }

    fn hold(&mut self, row: &Row, wrong: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        self.fill(&row.world)?;
        self.drain_events()?;
        let capture = match row.captured {
            Some(_) => Some(Capture::start(&LISTENING)?),
            None => None,
        };
        let before = self.counts()?;
        let after_run = match self.run(row) {
            Ok(ran) => ran,
            // Since about 6.15 a test run refuses to make an skb without a whole IP header; the
            // older kernels, and XDP, hold the row.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && is_headless(row) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let after = self.counts()?;

        let mut expect = |what: &str, holds: bool, found: String, wanted: String| {
            if !holds {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    wrong,
                    "    {what}: {found}\n    {:1$}  {wanted}",
                    "",
                    what.len()
                );
            }
        };
        let Ran {
            verdict,
            data,
            mark,
            origin,
            nanoseconds: _,
        } = &after_run;
        let wanted = row.verdict.of(row.program);
        expect(
            "verdict",
            *verdict == wanted,
            format!("{verdict:#x}"),
            format!("{wanted:#x}"),
        );
        let wanted = row.bytes.as_ref().unwrap_or(&row.packet);
        expect("bytes", data == wanted, hex(data), hex(wanted));
        expect(
            "mark",
            *mark == row.mark_out,
            format!("{mark:#x}"),
            format!("{:#x}", row.mark_out),
        );
        expect(
            "origin",
            *origin == row.origin_out,
            format!("{origin:#x}"),
            format!("{:#x}", row.origin_out),
        );

        let drops = after.drops_since(&before);
        let wanted: Vec<_> = row
            .drop
            .map(|(reason, direction)| {
                let bytes = row.dropped.as_ref().unwrap_or(&row.packet).len() as u64;
                ((reason, direction), PacketCount { packets: 1, bytes })
            })
            .into_iter()
            .collect();
        expect(
            "drops",
            drops == wanted,
            format!("{drops:?}"),
            format!("{wanted:?}"),
        );
        let traffic = after.traffic_since(&before);
        expect(
            "traffic",
            traffic == row.traffic,
            format!("{traffic:?}"),
            format!("{:?}", row.traffic),
        );

        let events = self.drain_events()?;
        let wanted = row.drop.filter(|_| row.event);
        let holds = match (&events[..], wanted) {
            ([], None) => true,
            ([event], Some(drop)) => describes(event, row, drop),
            _ => false,
        };
        expect(
            "events",
            holds,
            format!("{events:?}"),
            format!(
                "{wanted:?} on device {} of {} bytes",
                row.ifindex,
                row.packet.len()
            ),
        );

        if let (Some(capture), Some(wanted)) = (capture, &row.captured) {
            let show = |frames: &[(u32, Vec<u8>)]| {
                frames
                    .iter()
                    .fold(String::new(), |mut text, (device, frame)| {
                        let _ = write!(text, "\n        {device}: {}", hex(frame));
                        text
                    })
            };
            let frames = capture.frames(wanted.len())?;
            expect("captured", frames == *wanted, show(&frames), show(wanted));
        }
        Ok(())
    }

    fn run(&mut self, row: &Row) -> io::Result<Ran> {
        let Self { bpf, shim, .. } = self;
        let program = bpf
            .program_mut(row.program)
            .ok_or_else(|| io::Error::other(format!("no program `{}`", row.program)))?;
        if row.program == program::UNDERLAY_RX_XDP {
            let context = XdpMd {
                data_end: row.packet.len() as u32,
                ingress_ifindex: row.ifindex,
                ..XdpMd::zeroed()
            };
            let outcome = sys::test_run(descriptor(program)?, &row.packet, &context)?;
            return Ok(Ran {
                verdict: outcome.verdict,
                data: outcome.data,
                mark: row.mark_out,
                origin: row.origin_out,
                nanoseconds: outcome.nanoseconds,
            });
        }
        let mut context = SkBuff {
            ifindex: row.ifindex,
            mark: row.mark,
            gso_size: row.gso_size,
            gso_segs: row.gso_segs,
            ..SkBuff::zeroed()
        };
        context.cb[shim::TC_INDEX_IN] = u32::from(row.origin);
        context.cb[shim::VLAN_IN] = row
            .vlan
            .map_or(0, |tci| shim::VLAN_PRESENT | u32::from(tci));
        let outcome = shim.run(descriptor(program)?, &row.packet, &context)?;
        Ok(Ran {
            verdict: outcome.verdict,
            data: outcome.data,
            mark: outcome.context.mark,
            origin: outcome.context.cb[shim::TC_INDEX_OUT] as u16,
            nanoseconds: outcome.nanoseconds,
        })
    }

    /// Runs the row's packet once, in maps that hold what [`Self::fill`] put there. Without the shim,
    /// which costs something, a row can have neither origin nor tag.
    pub fn time(&mut self, row: &Row, with_shim: bool) -> io::Result<Timed> {
        if with_shim || row.program == program::UNDERLAY_RX_XDP {
            let Ran {
                verdict,
                nanoseconds,
                ..
            } = self.run(row)?;
            return Ok(Timed {
                verdict,
                nanoseconds,
            });
        }
        let program = self.bpf.program_mut(row.program);
        let program =
            program.ok_or_else(|| io::Error::other(format!("no program `{}`", row.program)))?;
        let context = SkBuff {
            ifindex: row.ifindex,
            mark: row.mark,
            ..SkBuff::zeroed()
        };
        let outcome = sys::test_run(descriptor(program)?, &row.packet, &context)?;
        Ok(Timed {
            verdict: outcome.verdict,
            nanoseconds: outcome.nanoseconds,
        })
    }

    fn drain_events(&mut self) -> Result<Vec<DropEvent>, String> {
        let mut events = Vec::new();
        while let Some(record) = self.events.next() {
            let event = bytemuck::checked::try_pod_read_unaligned(&record)
                .map_err(|error| format!("a record of `events` is no drop event: {error}"))?;
            events.push(event);
        }
        Ok(events)
    }

    fn counts(&self) -> Result<Counts, Box<dyn std::error::Error>> {
        Ok(Counts {
            drops: self.bpf.drops()?,
            peers: self.bpf.peer_stats()?,
        })
    }

    /// Makes the maps equal to the world.
    pub fn fill(&mut self, world: &World) -> Result<(), Box<dyn std::error::Error>> {
        let wanted = &world.maps;
        let bytes = wanted.config.map_or([0; CONFIG_SIZE], bytemuck::cast);
        self.config.set(0, bytes, 0)?;
        let found = self.bpf.observe_maps()?;
        let maps = self.bpf.maps_mut();
        macro_rules! make_equal {
            ($($map:ident)+) => {$(
                for key in found.$map.keys() {
                    if !wanted.$map.contains_key(key) {
                        maps.$map.delete(key)?;
                    }
                }
                for (key, value) in &wanted.$map {
                    if found.$map.get(key) != Some(value) {
                        maps.$map.put(key, value)?;
                    }
                }
            )+};
        }
        make_equal!(local_ports networks addresses endpoints peers flood_lists sas vteps memberships);
        Ok(())
    }
}

impl Counts {
    fn drops_since(&self, before: &Self) -> Vec<((DropReason, Direction), PacketCount)> {
        self.drops
            .iter()
            .filter_map(|(key, count)| {
                let old = before.drops.get(key).copied().unwrap_or_default();
                let count = PacketCount {
                    packets: count.packets - old.packets,
                    bytes: count.bytes - old.bytes,
                };
                (count != PacketCount::default()).then_some((*key, count))
            })
            .collect()
    }

    fn traffic_since(&self, before: &Self) -> Vec<Traffic> {
        let mut traffic = Vec::new();
        for (key, stats) in &self.peers {
            let old = before.peers.get(key).copied().unwrap_or_default();
            let peer = key.peer;
            // More than one frame would show as too many bytes.
            if stats.tx_packets != old.tx_packets {
                let bytes = stats.tx_bytes - old.tx_bytes;
                traffic.push(Traffic::Sent { peer, bytes });
            }
            if stats.rx_packets != old.rx_packets {
                let bytes = stats.rx_bytes - old.rx_bytes;
                traffic.push(Traffic::Received { peer, bytes });
            }
        }
        traffic
    }
}

/// Whether an event is the record of the row's drop.
fn describes(event: &DropEvent, row: &Row, (reason, direction): (DropReason, Direction)) -> bool {
    let packet = row.dropped.as_ref().unwrap_or(&row.packet);
    let ethernet = if row.program == program::UNDERLAY_AUDIT_L3 {
        &[0; 14]
    } else {
        &packet[..14]
    };
    (event.reason, event.direction) == (reason, direction)
        && event.ifindex == row.ifindex
        && event.length as usize == packet.len()
        && event.ethernet == ethernet
        && event.time != 0
}

/// Whether the packet's IP header is cut short.
fn is_headless(row: &Row) -> bool {
    let needed = match row.packet[12..14] {
        [0x08, 0x00] => 14 + 20,
        [0x86, 0xdd] => 14 + 40,
        _ => 0,
    };
    row.program != program::UNDERLAY_RX_XDP && row.packet.len() < needed
}

fn descriptor(program: &Program) -> io::Result<BorrowedFd<'_>> {
    match program {
        Program::SchedClassifier(program) => program.fd(),
        Program::Xdp(program) => program.fd(),
        _ => return Err(io::Error::other("a program of another type")),
    }
    .map(|fd| fd.as_fd())
    .map_err(io::Error::other)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = format!("({}) ", bytes.len());
    for (position, byte) in bytes.iter().enumerate() {
        if position > 0 && position % 2 == 0 {
            text.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        if position == 160 {
            text.push_str(" …");
            break;
        }
    }
    text
}
