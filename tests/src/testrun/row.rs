//! One line of a table: what goes in, and all that must come out.

use overlay_ebpf::abi::{Direction, DropReason, program};

use super::world::{World, device};

/// What becomes of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the stack: `TC_ACT_UNSPEC`, `XDP_PASS`.
    Pass,
    Drop,
    /// `TC_ACT_REDIRECT`, `XDP_REDIRECT`. A test run does not carry it out.
    Redirect,
}

impl Verdict {
    /// The number that the kernel reports for it.
    pub fn of(self, name: &str) -> u32 {
        let is_xdp = name == program::UNDERLAY_RX_XDP;
        match (self, is_xdp) {
            (Self::Pass, false) => u32::MAX,
            (Self::Drop, false) | (Self::Pass, true) => 2,
            (Self::Redirect, false) => 7,
            (Self::Drop, true) => 1,
            (Self::Redirect, true) => 4,
        }
    }
}

/// Frames and bytes that `peer_stats` must count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    Sent { peer: u32, bytes: u64 },
    Received { peer: u32, bytes: u64 },
}

#[derive(Debug, Clone)]
pub struct Row {
    /// A sentence.
    pub name: String,
    pub program: &'static str,
    pub world: World,

    pub packet: Vec<u8>,
    /// Device that the packet is on.
    pub ifindex: u32,
    pub mark: u32,
    /// `skb->tc_index`.
    pub origin: u16,
    /// Tag control information beside the packet.
    pub vlan: Option<u16>,
    pub gso_size: u32,
    pub gso_segs: u32,

    pub verdict: Verdict,
    /// All bytes of the packet; `None` if they are those that went in.
    pub bytes: Option<Vec<u8>>,
    pub mark_out: u32,
    pub origin_out: u16,
    /// The one drop that must be counted.
    pub drop: Option<(DropReason, Direction)>,
    /// The packet as it was when it was dropped; `None` if as it went in.
    pub dropped: Option<Vec<u8>>,
    /// Whether the drop leaves a record in `events`: all but those answered by a message do.
    pub event: bool,
    pub traffic: Vec<Traffic>,
    /// Kernels without `BPF_F_ADJ_ROOM_DECAP_L3_*` (before 6.3) cannot hold the row.
    pub needs_decap_l3: bool,
    /// Every frame that must be seen on the listening ends, in order; `None` if nobody listens.
    pub captured: Option<Vec<(u32, Vec<u8>)>>,
}

/// A row whose packet passes unchanged, on the device the program is made for.
pub fn row(name: impl Into<String>, program: &'static str) -> Row {
    let ifindex = match program {
        program::ENDPOINT_TX => device::A,
        program::REENTRY => device::REENTRY,
        program::DECRYPTED_RX => device::XFRM,
        program::SINK => device::HOP,
        _ => device::UNDERLAY,
    };
    Row {
        name: name.into(),
        program,
        world: World::default(),
        packet: Vec::new(),
        ifindex,
        mark: 0,
        origin: 0,
        vlan: None,
        gso_size: 0,
        gso_segs: 0,
        verdict: Verdict::Pass,
        bytes: None,
        mark_out: 0,
        origin_out: 0,
        drop: None,
        dropped: None,
        event: true,
        traffic: Vec::new(),
        captured: None,
        needs_decap_l3: false,
    }
}

/// Where a program's drops are counted.
pub fn direction(name: &str) -> Direction {
    match name {
        program::ENDPOINT_TX => Direction::FromEndpoint,
        program::UNDERLAY_AUDIT | program::UNDERLAY_AUDIT_L3 => Direction::ToUnderlay,
        program::UNDERLAY_RX | program::UNDERLAY_RX_XDP => Direction::FromUnderlay,
        program::DECRYPTED_RX => Direction::FromIpsec,
        _ => Direction::Internal,
    }
}

impl Row {
    pub fn packet(mut self, packet: impl Into<Vec<u8>>) -> Self {
        self.packet = packet.into();
        self
    }

    /// Changes the maps.
    pub fn with(mut self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.world);
        self
    }

    pub fn on(mut self, ifindex: u32) -> Self {
        self.ifindex = ifindex;
        self
    }

    /// Comes, and unless the program changes them goes, with this mark and origin.
    pub fn marked(mut self, mark: u32, origin: u16) -> Self {
        (self.mark, self.origin) = (mark, origin);
        (self.mark_out, self.origin_out) = (mark, origin);
        self
    }

    pub fn vlan_beside(mut self, tci: u16) -> Self {
        self.vlan = Some(tci);
        self
    }

    pub fn gso(mut self, size: u32, segs: u32) -> Self {
        (self.gso_size, self.gso_segs) = (size, segs);
        self
    }

    pub fn passes(mut self) -> Self {
        self.verdict = Verdict::Pass;
        self
    }

    pub fn drops(mut self, reason: DropReason) -> Self {
        self.verdict = Verdict::Drop;
        self.drop = Some((reason, direction(self.program)));
        self
    }

    /// Is dropped as these bytes.
    pub fn as_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        self.dropped = Some(bytes.clone());
        self.bytes(bytes)
    }

    /// Its drop leaves no event.
    pub fn silent(mut self) -> Self {
        self.event = false;
        self
    }

    pub fn needs_decap_l3(mut self) -> Self {
        self.needs_decap_l3 = true;
        self
    }

    /// Ends here, but as no drop: clones are on their way.
    pub fn ends(mut self) -> Self {
        self.verdict = Verdict::Drop;
        self
    }

    /// Is redirected with these bytes.
    pub fn redirects(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.verdict = Verdict::Redirect;
        self.bytes = Some(bytes.into());
        self
    }

    /// Counted as dropped, and replaced by an answer: no event.
    pub fn answers(self, reason: DropReason, bytes: impl Into<Vec<u8>>) -> Self {
        self.drops(reason).redirects(bytes).silent()
    }

    /// Ends with these bytes, whatever the verdict.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.bytes = Some(bytes.into());
        self
    }

    /// Goes with this mark and origin.
    pub fn leaves_marked(mut self, mark: u32, origin: u16) -> Self {
        (self.mark_out, self.origin_out) = (mark, origin);
        self
    }

    pub fn sent(mut self, peer: u32, bytes: usize) -> Self {
        let bytes = bytes as u64;
        self.traffic.push(Traffic::Sent { peer, bytes });
        self
    }

    pub fn received(mut self, peer: u32, bytes: usize) -> Self {
        let bytes = bytes as u64;
        self.traffic.push(Traffic::Received { peer, bytes });
        self
    }

    /// Exactly these frames appear on the listening ends.
    pub fn captured(mut self, frames: Vec<(u32, Vec<u8>)>) -> Self {
        self.captured = Some(frames);
        self
    }
}
