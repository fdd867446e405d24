//! The few rtnetlink requests of attaching: TC filters at fixed handles, and which XDP program a
//! device runs. Synchronous, in the network namespace of the calling thread.
//!
//! Layouts: `struct nlmsghdr` (netlink.h), `tcmsg` and `ifinfomsg` (rtnetlink.h), `TCA_BPF_*`
//! (pkt_cls.h), `IFLA_XDP_*` (if_link.h), all of include/uapi/linux.

use std::{
    fmt, io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use bytemuck::{Pod, Zeroable, bytes_of, pod_read_unaligned};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::hook::{Hook, XdpMode};

/// What rtnetlink answered.
#[derive(Debug)]
pub struct NetlinkError {
    source: io::Error,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`).
    message: Option<String>,
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    fn malformed(what: &'static str) -> Self {
        Self::from(io::Error::new(io::ErrorKind::InvalidData, what))
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self {
            source,
            message: None,
        }
    }
}

impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        match error.message {
            None => error.source,
            Some(_) => Self::new(error.source.kind(), error.to_string()),
        }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        match &self.message {
            Some(message) => write!(f, " ({message})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Nested, and byte-order bits of an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const NLA_F_NESTED: u16 = 0x8000;

const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;

/// Major number of both the clsact and the ingress qdisc.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT`, and the only parent either qdisc can have.
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 3;

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct TcMessage {
    family: u8,
    padding: [u8; 3],
    ifindex: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
struct LinkMessage {
    family: u8,
    padding: u8,
    kind: u16,
    ifindex: i32,
    flags: u32,
    change: u32,
}

/// A device of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) name: String,
    /// Its XDP programs by mode.
    pub(super) xdp: Vec<(XdpMode, u32)>,
}

/// A BPF filter of a clsact qdisc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) priority: u16,
    pub(super) handle: u32,
    pub(super) program: u32,
}

/// A request socket.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors come with the kernel's words and without the request, which is known.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Every device, with its XDP programs.
    pub(super) fn devices(&mut self) -> Result<Vec<Device>, NetlinkError> {
        let mut request = bytes_of(&LinkMessage::zeroed()).to_vec();
        attribute(
            &mut request,
            IFLA_EXT_MASK,
            &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
        );
        self.dump(RTM_GETLINK, &request)?
            .iter()
            .filter(|(kind, _)| *kind == RTM_NEWLINK)
            .map(|(_, payload)| device(payload))
            .collect()
    }

    /// One device; `None` if it does not exist.
    pub(super) fn device(&mut self, ifindex: u32) -> Result<Option<Device>, NetlinkError> {
        let mut request = bytes_of(&LinkMessage {
            ifindex: ifindex as i32,
            ..LinkMessage::zeroed()
        })
        .to_vec();
        attribute(
            &mut request,
            IFLA_EXT_MASK,
            &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
        );
        let replies = match self.request(RTM_GETLINK, NLM_F_ACK, &request) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            replies => replies?,
        };
        replies
            .iter()
            .find(|(kind, _)| *kind == RTM_NEWLINK)
            .map(|(_, payload)| device(payload))
            .transpose()
    }

    /// Adds the clsact qdisc; it may be there already.
    pub(super) fn add_clsact(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let mut request = bytes_of(&TcMessage {
            ifindex: ifindex as i32,
            handle: CLSACT_HANDLE,
            parent: CLSACT_PARENT,
            ..TcMessage::zeroed()
        })
        .to_vec();
        attribute(&mut request, TCA_KIND, b"clsact\0");
        match self.request(
            RTM_NEWQDISC,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            &request,
        ) {
            // The older `ingress` qdisc takes the same place but has no egress side.
            Err(error)
                if error.raw_os_error() == Some(libc::EEXIST)
                    && self.clsact_devices()?.contains(&ifindex) =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// Devices with a clsact qdisc.
    pub(super) fn clsact_devices(&mut self) -> Result<Vec<u32>, NetlinkError> {
        let replies = self.dump(RTM_GETQDISC, bytes_of(&TcMessage::zeroed()))?;
        let mut devices = Vec::new();
        for (_, payload) in replies.iter().filter(|(kind, _)| *kind == RTM_NEWQDISC) {
            let (message, attributes) = split::<TcMessage>(payload)?;
            let kind = Attributes(attributes).find(|(kind, _)| *kind == TCA_KIND);
            if message.handle == CLSACT_HANDLE && kind.is_some_and(|(_, name)| name == b"clsact\0")
            {
                devices.push(message.ifindex.unsigned_abs());
            }
        }
        Ok(devices)
    }

    /// Puts a program at a priority and handle, replacing atomically what is there.
    pub(super) fn set_filter(
        &mut self,
        ifindex: u32,
        hook: Hook,
        priority: u16,
        handle: u32,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let mut request = bytes_of(&filter_message(ifindex, hook, priority, handle)).to_vec();
        attribute(&mut request, TCA_KIND, b"bpf\0");
        let mut options = Vec::new();
        attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        attribute(
            &mut options,
            TCA_BPF_NAME,
            &[name.as_bytes(), b"\0"].concat(),
        );
        attribute(
            &mut options,
            TCA_BPF_FLAGS,
            &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes(),
        );
        attribute(&mut request, TCA_OPTIONS | NLA_F_NESTED, &options);
        self.request(RTM_NEWTFILTER, NLM_F_ACK | NLM_F_CREATE, &request)
            .map(drop)
    }

    /// Removes a filter; it may be gone already.
    pub(super) fn delete_filter(
        &mut self,
        ifindex: u32,
        hook: Hook,
        priority: u16,
        handle: u32,
    ) -> Result<(), NetlinkError> {
        let request = filter_message(ifindex, hook, priority, handle);
        match self.request(RTM_DELTFILTER, NLM_F_ACK, bytes_of(&request)) {
            // No such filter, priority, qdisc or device. The kernel says EINVAL, too, for a device
            // without the qdisc.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
                ) =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// The BPF filters on one side of a device's clsact qdisc.
    pub(super) fn filters(
        &mut self,
        ifindex: u32,
        hook: Hook,
    ) -> Result<Vec<Filter>, NetlinkError> {
        let request = TcMessage {
            ifindex: ifindex as i32,
            parent: parent(hook),
            ..TcMessage::zeroed()
        };
        let mut filters = Vec::new();
        for (kind, payload) in self.dump(RTM_GETTFILTER, bytes_of(&request))? {
            if kind != RTM_NEWTFILTER {
                continue;
            }
            let (message, attributes) = split::<TcMessage>(&payload)?;
            let program = Attributes(attributes)
                .filter(|(kind, _)| *kind == TCA_OPTIONS)
                .flat_map(|(_, options)| Attributes(options))
                .find(|(kind, _)| *kind == TCA_BPF_ID)
                .and_then(|(_, id)| number(id));
            if let Some(program) = program {
                filters.push(Filter {
                    priority: (message.info >> 16) as u16,
                    handle: message.handle,
                    program,
                });
            }
        }
        Ok(filters)
    }

    /// Dumps, again if the kernel says that the list changed meanwhile.
    fn dump(&mut self, kind: u16, payload: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, NetlinkError> {
        const ATTEMPTS: usize = 10;
        for _ in 1..ATTEMPTS {
            match self.request(kind, NLM_F_DUMP, payload) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                result => return result,
            }
        }
        self.request(kind, NLM_F_DUMP, payload)
    }

    /// Sends a request and collects the answers until its end.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<(u16, Vec<u8>)>, NetlinkError> {
        self.sequence += 1;
        let header = Header {
            length: (size_of::<Header>() + payload.len()) as u32,
            kind,
            flags: NLM_F_REQUEST | flags,
            sequence: self.sequence,
            port: 0,
        };
        self.socket
            .send(&[bytes_of(&header), payload].concat(), 0)?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= size_of::<Header>() {
                let (header, _) = split::<Header>(rest)?;
                let length = header.length as usize;
                let body = rest
                    .get(size_of::<Header>()..length)
                    .ok_or(NetlinkError::malformed("truncated netlink message"))?;
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        result(&header, body)?;
                        if interrupted {
                            return Err(io::Error::from_raw_os_error(libc::EINTR).into());
                        }
                        return Ok(replies);
                    }
                    kind => replies.push((kind, body.to_vec())),
                }
            }
        }
    }
}

const fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::TcEgress => EGRESS,
        Hook::TcIngress | Hook::Xdp(_) => INGRESS,
    }
}

fn filter_message(ifindex: u32, hook: Hook, priority: u16, handle: u32) -> TcMessage {
    TcMessage {
        ifindex: ifindex as i32,
        handle,
        parent: parent(hook),
        info: u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be()),
        ..TcMessage::zeroed()
    }
}

/// The outcome in an NLMSG_ERROR or NLMSG_DONE.
fn result(header: &Header, body: &[u8]) -> Result<(), NetlinkError> {
    let code = number(body.get(..4).unwrap_or_default())
        .map(|code| code as i32)
        .unwrap_or(0);
    if code == 0 {
        return Ok(());
    }
    // NLMSG_ERROR repeats the request's header before its attributes.
    let attributes = match header.kind {
        NLMSG_ERROR => body.get(4 + size_of::<Header>()..),
        _ => body.get(4..),
    };
    let message = (header.flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attributes(attributes.unwrap_or_default()))
        .and_then(|mut attributes| attributes.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| text_of(text));
    Err(NetlinkError {
        source: io::Error::from_raw_os_error(-code),
        message,
    })
}

fn device(payload: &[u8]) -> Result<Device, NetlinkError> {
    let (message, attributes) = split::<LinkMessage>(payload)?;
    let mut device = Device {
        ifindex: message.ifindex.unsigned_abs(),
        name: String::new(),
        xdp: Vec::new(),
    };
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_IFNAME => device.name = text_of(value),
            IFLA_XDP => {
                for (kind, value) in Attributes(value) {
                    let mode = match kind {
                        IFLA_XDP_DRV_PROG_ID => XdpMode::Native,
                        IFLA_XDP_SKB_PROG_ID => XdpMode::Generic,
                        _ => continue,
                    };
                    device.xdp.extend(number(value).map(|id| (mode, id)));
                }
            }
            _ => {}
        }
    }
    Ok(device)
}

fn split<T: Pod>(bytes: &[u8]) -> Result<(T, &[u8]), NetlinkError> {
    bytes
        .split_at_checked(size_of::<T>())
        .map(|(head, rest)| (pod_read_unaligned(head), rest))
        .ok_or(NetlinkError::malformed("truncated netlink message"))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = 4 + value.len();
    message.extend((length as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The (type, value) pairs of a message; ends at the first malformed one.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u16::from_ne_bytes(*self.0.first_chunk()?);
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let value = self.0.get(4..length.into())?;
        self.0 = self
            .0
            .get(usize::from(length).next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind & NLA_TYPE_MASK, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut message = Vec::new();
        attribute(&mut message, TCA_KIND, b"bpf\0");
        attribute(&mut message, TCA_BPF_NAME | NLA_F_NESTED, b"abcde");
        assert_eq!(message.len(), 8 + 12);
        let read: Vec<_> = Attributes(&message).collect();
        assert_eq!(
            read,
            [(TCA_KIND, b"bpf\0".as_slice()), (TCA_BPF_NAME, b"abcde")]
        );
    }

    #[test]
    fn a_truncated_attribute_ends_the_list() {
        let mut message = Vec::new();
        attribute(&mut message, 1, b"abcd");
        message.extend([200, 0, 2, 0, 1]);
        assert_eq!(Attributes(&message).count(), 1);
        assert_eq!(Attributes(&[3, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn an_error_carries_the_words_of_the_kernel() {
        let header = Header {
            kind: NLMSG_ERROR,
            flags: NLM_F_ACK_TLVS,
            ..Header::zeroed()
        };
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend(bytes_of(&Header::zeroed()));
        attribute(&mut body, NLMSGERR_ATTR_MSG, b"no such kind\0");
        let error = result(&header, &body).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(error.to_string().ends_with("(no such kind)"), "{error}");
    }

    #[test]
    fn loopback_is_among_the_devices() {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.device(1).unwrap().unwrap();
        assert_eq!(loopback.name, "lo");
        assert!(netlink.devices().unwrap().contains(&loopback));
        assert_eq!(netlink.device(i32::MAX as u32).unwrap(), None);
    }
}
