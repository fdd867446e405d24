//! SAs: `XFRM_MSG_NEWSA` and what the kernel tells of them.

use std::net::IpAddr;

use netlink_packet_xfrm::{
    Address, LifetimeConfig, Selector, UserSaId, UserSaInfo, XFRM_USER_SA_INFO_LEN, constants as nl,
};
use overlay_ebpf::abi::Spi;

use super::{
    Error, Ownership, Planned,
    socket::ACKNOWLEDGE,
    wire::{Request, attributes, malformed, u32_at},
};
use crate::{
    dataplane::{
        desired::Keying,
        objects::{Encap, State, StateKey, StateMode},
    },
    secret::KeyMaterial,
};

/// Name of AES-GCM for ESP (RFC 4106) in the kernel's crypto API.
const AEAD: &[u8] = b"rfc4106(gcm(aes))";
/// `alg_name` of `struct xfrm_algo_aead` (linux/xfrm.h); key length and ICV length follow, 32 bits
/// each, in bits, then the key.
const AEAD_NAME_LEN: usize = 64;
const AEAD_KEY_OFFSET: usize = AEAD_NAME_LEN + 8;
const ICV_BITS: u32 = 128;
const KEY_BITS: u32 = KeyMaterial::LEN as u32 * 8;

/// `struct xfrm_replay_state_esn` (linux/xfrm.h): bmp_len, oseq, seq, oseq_hi, seq_hi,
/// replay_window, 32 bits each, then the bitmap.
const ESN_OSEQ: usize = 4;
const ESN_SEQ: usize = 8;
const ESN_OSEQ_HI: usize = 12;
const ESN_SEQ_HI: usize = 16;
const ESN_WINDOW: usize = 20;

/// `XFRMA_REPLAY_ESN_MAX` (linux/xfrm.h), packets.
const MAX_REPLAY_WINDOW: u32 = 4096;

/// XFRM attributes that change what an SA does; an SA of ours with one of them was tampered with.
const ALTERING: [u16; 6] = [
    nl::XFRMA_COADDR,
    nl::XFRMA_MARK,
    nl::XFRMA_TFCPAD,
    nl::XFRMA_SA_EXTRA_FLAGS,
    nl::XFRMA_OFFLOAD_DEV,
    nl::XFRMA_SET_MARK,
];
const ALGORITHMS: [u16; 5] = [
    nl::XFRMA_ALG_AEAD,
    nl::XFRMA_ALG_AUTH,
    nl::XFRMA_ALG_AUTH_TRUNC,
    nl::XFRMA_ALG_CRYPT,
    nl::XFRMA_ALG_COMP,
];

/// `UDP_ENCAP_ESPINUDP` (linux/udp.h).
const ESP_IN_UDP: u16 = 2;
/// `struct xfrm_encap_tmpl` (linux/xfrm.h): type in host byte order, source and destination port in
/// network byte order, 2 bytes of padding, and an address that nothing reads.
const ENCAP_LEN: usize = 24;

/// Counters of an SA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the packets before encryption, or after decryption.
    pub bytes: u64,
    pub packets: u64,
    /// Last sequence number sent (RFC 4303 section 2.2.1).
    pub sent_sequence: u64,
    /// Highest sequence number received.
    pub received_sequence: u64,
    /// Packets dropped as left of the replay window.
    pub outside_window: u32,
    /// Packets dropped as replayed.
    pub replayed: u32,
    /// Packets dropped because their ICV was wrong.
    pub integrity_failed: u32,
    /// When it was installed, seconds since 1970.
    pub installed_at: u64,
    /// When it was first used, seconds since 1970; 0 is never.
    pub first_used_at: u64,
}

/// An SA as the kernel describes it, whoever made it. Its key is not kept.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Host byte order.
    pub(super) spi: u32,
    /// IP protocol number.
    pub(super) protocol: u8,
    pub(super) reqid: u32,
    pub(super) if_id: u32,
    /// Has no algorithm: made by ACQUIRE or ALLOCSPI, to be filled in.
    pub(super) larval: bool,
    /// `None` if it is no ESP SA with an SPI that is not reserved.
    pub(super) key: Option<StateKey>,
    pub(super) state: State,
    pub(super) usage: Usage,
}

impl Found {
    pub(super) fn ours(&self, ours: &Ownership) -> Option<(StateKey, State)> {
        if self.larval || self.reqid != ours.reqid {
            return None;
        }
        Some((self.key?, self.state.clone()))
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "an XFRM state";
        let info = UserSaInfo::parse(body).map_err(|error| malformed(WHAT, error))?;
        let rest = body
            .get(XFRM_USER_SA_INFO_LEN..)
            .ok_or_else(|| malformed(WHAT, "it ends early"))?;
        let source = address(&info.saddr, info.family).ok_or_else(|| malformed(WHAT, "family"))?;
        let destination =
            address(&info.id.daddr, info.family).ok_or_else(|| malformed(WHAT, "family"))?;
        let key = Spi::new(info.id.spi)
            .ok()
            .filter(|_| info.id.proto == libc::IPPROTO_ESP as u8)
            .map(|spi| StateKey {
                source,
                destination,
                spi,
            });
        let mut usage = Usage {
            bytes: info.lifetime_cur.bytes,
            packets: info.lifetime_cur.packets,
            outside_window: info.stats.replay_window,
            replayed: info.stats.replay,
            integrity_failed: info.stats.integrity_failed,
            installed_at: info.lifetime_cur.add_time,
            first_used_at: info.lifetime_cur.use_time,
            ..Usage::default()
        };
        let mut larval = true;
        let mut cipher = false;
        let mut altered = false;
        let mut if_id = 0;
        let mut window = None;
        let mut encap = None;
        for attribute in attributes(rest) {
            let (kind, value) = attribute?;
            larval &= !ALGORITHMS.contains(&kind);
            altered |= ALTERING.contains(&kind) && !is_null_mark(kind, value);
            match kind {
                nl::XFRMA_ALG_AEAD => cipher = is_our_cipher(value),
                nl::XFRMA_ENCAP => {
                    encap = read_encap(value);
                    altered |= encap.is_none();
                }
                nl::XFRMA_IF_ID => if_id = u32_at(value, 0).unwrap_or(0),
                nl::XFRMA_REPLAY_ESN_VAL => {
                    let field = |offset| u32_at(value, offset).unwrap_or(0);
                    let whole = |high, low| u64::from(field(high)) << 32 | u64::from(field(low));
                    window = Some(field(ESN_WINDOW));
                    usage.sent_sequence = whole(ESN_OSEQ_HI, ESN_OSEQ);
                    usage.received_sequence = whole(ESN_SEQ_HI, ESN_SEQ);
                }
                _ => {}
            }
        }
        let limits = info.lifetime_cfg;
        let plain = cipher
            && !altered
            && info.flags == nl::XFRM_STATE_ESN
            && limits
                == LifetimeConfig {
                    hard_byte_limit: limits.hard_byte_limit,
                    ..LifetimeConfig::default()
                };
        let pair = selector(source, destination);
        let mode = match info.mode {
            nl::XFRM_MODE_TRANSPORT if plain && if_id == 0 && is_open(&info.selector) => {
                StateMode::Transport
            }
            nl::XFRM_MODE_BEET if plain && encap.is_none() && info.selector == pair => {
                StateMode::Beet { if_id }
            }
            _ => StateMode::Other,
        };
        Ok(Self {
            source,
            destination,
            spi: info.id.spi,
            protocol: info.id.proto,
            reqid: info.reqid,
            if_id,
            larval,
            key,
            state: State {
                mode,
                reqid: info.reqid,
                replay_window: window.unwrap_or(0),
                hard_byte_limit: (limits.hard_byte_limit != nl::XFRM_INF)
                    .then_some(limits.hard_byte_limit),
                encap,
                keying: Keying::Adopted,
            },
            usage,
        })
    }
}

/// Equal but for the key.
pub(super) fn equal(found: &State, wanted: &State) -> bool {
    let State {
        mode,
        reqid,
        replay_window,
        hard_byte_limit,
        encap,
        keying: _,
    } = found;
    *mode == wanted.mode
        && *reqid == wanted.reqid
        && *replay_window == wanted.replay_window
        && *hard_byte_limit == wanted.hard_byte_limit
        && *encap == wanted.encap
}

/// Whether the SA of a description has this key. False where the kernel does not tell keys
/// (lockdown).
pub(super) fn has_key(body: &[u8], material: &KeyMaterial) -> Result<bool, Error> {
    let rest = body.get(XFRM_USER_SA_INFO_LEN..).unwrap_or(&[]);
    for attribute in attributes(rest) {
        let (kind, value) = attribute?;
        if kind == nl::XFRMA_ALG_AEAD && is_our_cipher(value) {
            let key = value.get(AEAD_KEY_OFFSET..).unwrap_or(&[]);
            let material = material.expose();
            // Every byte is compared: how long it takes says nothing of the key.
            let difference = key
                .iter()
                .zip(material)
                .fold(0, |difference, (a, b)| difference | (a ^ b));
            return Ok(key.len() == material.len() && difference == 0);
        }
    }
    Ok(false)
}

fn is_our_cipher(value: &[u8]) -> bool {
    let name = value.get(..AEAD_NAME_LEN).unwrap_or(&[]);
    let end = name.iter().position(|&byte| byte == 0);
    end.and_then(|end| name.get(..end)) == Some(AEAD)
        && u32_at(value, AEAD_NAME_LEN) == Some(KEY_BITS)
        && u32_at(value, AEAD_NAME_LEN + 4) == Some(ICV_BITS)
}

/// `None` if it is not ESP in UDP.
fn read_encap(value: &[u8]) -> Option<Encap> {
    let (kind, ports) = value.get(..6)?.split_at(2);
    if kind != ESP_IN_UDP.to_ne_bytes() {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes(ports.get(at..at + 2)?.try_into().ok()?));
    Some(Encap {
        source_port: port(0)?,
        destination_port: port(2)?,
    })
}

/// The kernel may tell a mark that matches everything.
fn is_null_mark(kind: u16, value: &[u8]) -> bool {
    kind == nl::XFRMA_MARK && value.iter().all(|&byte| byte == 0)
}

fn is_open(selector: &Selector) -> bool {
    *selector
        == Selector {
            family: selector.family,
            ..Selector::default()
        }
}

/// `source/32 → destination/32`, or /128.
fn selector(source: IpAddr, destination: IpAddr) -> Selector {
    let mut selector = Selector::default();
    selector.source_prefix(&source, bits(source));
    selector.destination_prefix(&destination, bits(destination));
    selector
}

pub(super) const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

pub(super) fn address(address: &Address, family: u16) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(address.to_ipv4().into()),
        libc::AF_INET6 => Some(address.to_ipv6().into()),
        _ => None,
    }
}

/// The request that installs an SA: `kind` is `XFRM_MSG_NEWSA` or `XFRM_MSG_UPDSA`.
pub(super) fn install(kind: u16, key: &StateKey, state: &State) -> Result<Planned, Error> {
    let Keying::Keyed(material) = &state.keying else {
        return Err(Error::KeyUnknown(*key));
    };
    let mut info = UserSaInfo::default();
    info.source(&key.source);
    info.destination(&key.destination);
    info.id.spi = key.spi.get();
    info.id.proto = libc::IPPROTO_ESP as u8;
    info.reqid = state.reqid;
    info.flags = nl::XFRM_STATE_ESN;
    info.selector.family = info.family;
    if let Some(limit) = state.hard_byte_limit {
        info.lifetime_cfg.hard_byte_limit = limit;
    }
    let if_id = match state.mode {
        StateMode::Transport => {
            info.mode = nl::XFRM_MODE_TRANSPORT;
            None
        }
        StateMode::Beet { if_id } => {
            info.mode = nl::XFRM_MODE_BEET;
            info.selector = selector(key.source, key.destination);
            Some(if_id)
        }
        StateMode::Other => return Err(Error::NotWanted(format!("SA {key}"))),
    };

    if !(1..=MAX_REPLAY_WINDOW).contains(&state.replay_window) {
        return Err(Error::ReplayWindow(state.replay_window));
    }
    let mut name = [0; AEAD_NAME_LEN];
    name[..AEAD.len()].copy_from_slice(AEAD);
    let words = state.replay_window.div_ceil(32);
    let mut replay = vec![0; 24 + words as usize * 4];
    replay[..4].copy_from_slice(&words.to_ne_bytes());
    replay[ESN_WINDOW..ESN_WINDOW + 4].copy_from_slice(&state.replay_window.to_ne_bytes());

    let mut request = Request::new(kind, ACKNOWLEDGE, &info)
        .attribute(
            nl::XFRMA_ALG_AEAD,
            &[
                &name,
                &KEY_BITS.to_ne_bytes(),
                &ICV_BITS.to_ne_bytes(),
                material.expose(),
            ],
        )
        .attribute(nl::XFRMA_REPLAY_ESN_VAL, &[&replay]);
    if let Some(if_id) = if_id {
        request = request.attribute(nl::XFRMA_IF_ID, &[&if_id.to_ne_bytes()]);
    }
    if let Some(encap) = state.encap {
        request = request.attribute(
            nl::XFRMA_ENCAP,
            &[
                &ESP_IN_UDP.to_ne_bytes(),
                &encap.source_port.to_be_bytes(),
                &encap.destination_port.to_be_bytes(),
                &[0; ENCAP_LEN - 6],
            ],
        );
    }
    Ok(Planned {
        request,
        action: format!("install SA {key}"),
    })
}

pub(super) fn delete(key: &StateKey) -> Planned {
    Planned {
        request: Request::new(nl::XFRM_MSG_DELSA, ACKNOWLEDGE, &id(key)),
        action: format!("delete SA {key}"),
    }
}

pub(super) fn question(key: &StateKey) -> Request {
    Request::new(nl::XFRM_MSG_GETSA, 0, &id(key))
}

fn id(key: &StateKey) -> UserSaId {
    let mut id = UserSaId::default();
    id.destination(&key.destination);
    id.spi = key.spi.get();
    id.proto = libc::IPPROTO_ESP as u8;
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::xfrm::wire::HEADER_LEN;

    const OURS: Ownership = Ownership {
        reqid: 7,
        block_priority: 9000,
        policy_priority: 1000,
        port: 4789,
        if_id: 3,
    };

    fn key() -> StateKey {
        StateKey {
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            spi: Spi::new(0x1002).unwrap(),
        }
    }

    fn wanted(mode: StateMode) -> State {
        State {
            mode,
            reqid: 7,
            replay_window: 1000,
            hard_byte_limit: Some(1 << 40),
            encap: None,
            keying: Keying::Keyed(KeyMaterial::new([0x5a; KeyMaterial::LEN])),
        }
    }

    fn body(state: &State) -> Vec<u8> {
        let Ok(planned) = install(nl::XFRM_MSG_NEWSA, &key(), state) else {
            panic!("not an SA to install");
        };
        let mut request = planned.request;
        request.bytes_with_sequence(0)[HEADER_LEN..].to_vec()
    }

    #[test]
    fn states_are_read_back_as_written_without_their_key() {
        for mode in [StateMode::Transport, StateMode::Beet { if_id: 3 }] {
            let wanted = wanted(mode);
            let (found_key, found) = Found::parse(&body(&wanted)).unwrap().ours(&OURS).unwrap();
            assert_eq!(found_key, key());
            assert!(equal(&found, &wanted), "{found:?}");
            assert_eq!(found.keying, Keying::Adopted);
        }
    }

    #[test]
    fn ports_of_esp_in_udp_are_read_back_and_compared() {
        let mut state = wanted(StateMode::Transport);
        state.encap = Some(Encap::new(key().spi, 4500));
        assert_eq!(state.encap.map(|encap| encap.source_port), Some(0xc002));
        let mut bytes = body(&state);
        let found = Found::parse(&bytes).unwrap().state;
        assert!(equal(&found, &state), "{found:?}");
        assert!(!equal(&found, &wanted(StateMode::Transport)));

        // The attribute is the last one; its first byte is the type.
        let kind = bytes.len() - ENCAP_LEN;
        bytes[kind] = 7;
        let found = Found::parse(&bytes).unwrap().state;
        assert_eq!((found.mode, found.encap), (StateMode::Other, None));
    }

    #[test]
    fn an_inbound_sa_with_esp_in_udp_is_not_ours() {
        let mut state = wanted(StateMode::Beet { if_id: 3 });
        state.encap = Some(Encap::new(key().spi, 4500));
        let found = Found::parse(&body(&state)).unwrap().state;
        assert_eq!(found.mode, StateMode::Other);
    }

    #[test]
    fn keys_are_compared_whole() {
        let bytes = body(&wanted(StateMode::Transport));
        let mut other = [0x5a; KeyMaterial::LEN];
        assert!(has_key(&bytes, &KeyMaterial::new(other)).unwrap());
        other[KeyMaterial::LEN - 1] ^= 1;
        assert!(!has_key(&bytes, &KeyMaterial::new(other)).unwrap());
    }

    #[test]
    fn changed_flags_mark_or_selector_make_an_sa_another() {
        let offset_of_flags = 224 - 8;
        let mut bytes = body(&wanted(StateMode::Transport));
        bytes[offset_of_flags] = 0;
        let mode = |bytes: &[u8]| Found::parse(bytes).unwrap().state.mode;
        assert_eq!(mode(&bytes), StateMode::Other);

        let mut bytes = body(&wanted(StateMode::Transport));
        bytes.extend([12, 0, nl::XFRMA_MARK as u8, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(mode(&bytes), StateMode::Other);

        let mut bytes = body(&wanted(StateMode::Beet { if_id: 3 }));
        bytes[0] ^= 1;
        assert_eq!(mode(&bytes), StateMode::Other);
    }

    #[test]
    fn sa_without_algorithm_is_larval_and_not_observed() {
        let bytes = &body(&wanted(StateMode::Transport))[..XFRM_USER_SA_INFO_LEN];
        let found = Found::parse(bytes).unwrap();
        assert!(found.larval);
        assert!(found.ours(&OURS).is_none());
    }

    #[test]
    fn adopted_state_cannot_be_installed() {
        let mut state = wanted(StateMode::Transport);
        state.keying = Keying::Adopted;
        let refused = install(nl::XFRM_MSG_NEWSA, &key(), &state);
        assert!(matches!(refused, Err(Error::KeyUnknown(_))));
    }
}
