//! Policies: `XFRM_MSG_NEWPOLICY` and what the kernel tells of them.

use std::net::IpAddr;

use netlink_packet_xfrm::{
    Address, LifetimeConfig, Mark, Selector, UserPolicyId, UserPolicyInfo, UserTemplate,
    XFRM_USER_POLICY_INFO_LEN, XFRM_USER_TEMPLATE_LEN, constants as nl,
};
use overlay_ebpf::abi::Spi;
use rtnetlink::packet_core::Emitable;

use super::{
    Error, Ownership, Planned,
    socket::ACKNOWLEDGE,
    states::{address, bits},
    wire::{Request, attributes, malformed, u32_at},
};
use crate::dataplane::objects::{Policy, PolicyAction, PolicyKey};

/// A policy as the kernel describes it, whoever made it.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) info: UserPolicyInfo,
    pub(super) mark: Mark,
    pub(super) if_id: u32,
    pub(super) templates: Vec<UserTemplate>,
}

impl Found {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "an XFRM policy";
        let info = UserPolicyInfo::parse(body).map_err(|error| malformed(WHAT, error))?;
        let rest = body
            .get(XFRM_USER_POLICY_INFO_LEN..)
            .ok_or_else(|| malformed(WHAT, "it ends early"))?;
        let mut found = Self {
            info,
            mark: Mark::default(),
            if_id: 0,
            templates: Vec::new(),
        };
        for attribute in attributes(rest) {
            let (kind, value) = attribute?;
            match kind {
                nl::XFRMA_MARK => {
                    found.mark = Mark::parse(value).map_err(|error| malformed(WHAT, error))?;
                }
                nl::XFRMA_IF_ID => found.if_id = u32_at(value, 0).unwrap_or(0),
                nl::XFRMA_TMPL => {
                    found.templates = value
                        .chunks_exact(XFRM_USER_TEMPLATE_LEN)
                        .map(UserTemplate::parse)
                        .collect::<Result<_, _>>()
                        .map_err(|error| malformed(WHAT, error))?;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The policy in our vocabulary, if it is ours: outbound, with our reqid in a template, or a
    /// block of our port at our block priority.
    pub(super) fn ours(&self, ours: &Ownership) -> Option<(PolicyKey, Policy)> {
        if self.info.direction != nl::XFRM_POLICY_OUT {
            return None;
        }
        let key = self.key()?;
        let block = self.is_block();
        let marked_ours = self.has_reqid(ours.reqid)
            || (self.info.action == nl::XFRM_POLICY_BLOCK
                && self.info.priority == ours.block_priority
                && key.udp_port == Some(ours.port));
        if !marked_ours {
            return None;
        }
        let action = if !self.is_plain() {
            PolicyAction::Other
        } else if block {
            PolicyAction::Block
        } else {
            self.encrypt(&key).unwrap_or(PolicyAction::Other)
        };
        Some((
            key,
            Policy {
                priority: self.info.priority,
                action,
            },
        ))
    }

    pub(super) fn has_reqid(&self, reqid: u32) -> bool {
        self.templates
            .iter()
            .any(|template| template.reqid == reqid)
    }

    fn is_block(&self) -> bool {
        self.info.action == nl::XFRM_POLICY_BLOCK && self.templates.is_empty()
    }

    /// Without interface, limits and flags.
    fn is_plain(&self) -> bool {
        self.if_id == 0
            && self.info.flags == 0
            && self.info.share == 0
            && self.info.lifetime_cfg == LifetimeConfig::default()
    }

    fn encrypt(&self, key: &PolicyKey) -> Option<PolicyAction> {
        let [template] = self.templates.as_slice() else {
            return None;
        };
        if self.info.action != nl::XFRM_POLICY_ALLOW {
            return None;
        }
        let spi = Spi::new(template.id.spi).ok()?;
        let expected = self::template(key.source, key.destination?, spi, template.reqid);
        (*template == expected).then_some(PolicyAction::Encrypt {
            spi,
            reqid: template.reqid,
        })
    }

    /// `None` if the selector says more than a [`PolicyKey`] can.
    fn key(&self) -> Option<PolicyKey> {
        let found = &self.info.selector;
        let source = address(&found.saddr, found.family)?;
        let destination = (found.prefixlen_d != 0)
            .then(|| address(&found.daddr, found.family))
            .flatten();
        let udp_port = (found.proto == libc::IPPROTO_UDP as u8).then_some(found.dport);
        let key = PolicyKey {
            source,
            destination,
            udp_port,
            mark: self.mark.value,
            mark_mask: self.mark.mask,
        };
        (selector(&key) == *found).then_some(key)
    }
}

fn selector(key: &PolicyKey) -> Selector {
    let mut selector = Selector::default();
    selector.source_prefix(&key.source, bits(key.source));
    if let Some(destination) = key.destination {
        selector.destination_prefix(&destination, bits(destination));
    }
    if let Some(port) = key.udp_port {
        selector.proto = libc::IPPROTO_UDP as u8;
        selector.dport = port;
        selector.dport_mask = u16::MAX;
    }
    selector
}

/// One required ESP transform in transport mode, by exactly this SA.
fn template(source: IpAddr, destination: IpAddr, spi: Spi, reqid: u32) -> UserTemplate {
    let mut template = UserTemplate::default();
    template.source(&source);
    template.destination(&destination);
    template.protocol(libc::IPPROTO_ESP as u8);
    template.mode(nl::XFRM_MODE_TRANSPORT);
    template.spi(spi.get());
    template.reqid(reqid);
    template.optional(false);
    template
}

/// The request that installs an outbound policy: `kind` is `XFRM_MSG_NEWPOLICY` or, to replace,
/// `XFRM_MSG_UPDPOLICY`.
pub(super) fn install(kind: u16, key: &PolicyKey, policy: &Policy) -> Result<Planned, Error> {
    let mut info = UserPolicyInfo {
        selector: selector(key),
        priority: policy.priority,
        direction: nl::XFRM_POLICY_OUT,
        action: nl::XFRM_POLICY_ALLOW,
        ..UserPolicyInfo::default()
    };
    let not_wanted = || Error::NotWanted(format!("policy {key}"));
    let template = match policy.action {
        PolicyAction::Block => {
            info.action = nl::XFRM_POLICY_BLOCK;
            None
        }
        PolicyAction::Encrypt { spi, reqid } => {
            let destination = key.destination.ok_or_else(not_wanted)?;
            Some(template(key.source, destination, spi, reqid))
        }
        PolicyAction::Other => return Err(not_wanted()),
    };
    let mut request = with_mark(Request::new(kind, ACKNOWLEDGE, &info), key);
    if let Some(template) = template {
        request = request.attribute(nl::XFRMA_TMPL, &[&emitted(&template)]);
    }
    Ok(Planned {
        request,
        action: format!("install policy {key}"),
    })
}

pub(super) fn delete(key: &PolicyKey) -> Planned {
    Planned {
        request: with_mark(
            Request::new(nl::XFRM_MSG_DELPOLICY, ACKNOWLEDGE, &id(key)),
            key,
        ),
        action: format!("delete policy {key}"),
    }
}

pub(super) fn question(key: &PolicyKey) -> Request {
    with_mark(Request::new(nl::XFRM_MSG_GETPOLICY, 0, &id(key)), key)
}

fn id(key: &PolicyKey) -> UserPolicyId {
    UserPolicyId {
        selector: selector(key),
        index: 0,
        direction: nl::XFRM_POLICY_OUT,
    }
}

/// Part of a policy's identity: without it the kernel takes mark 0 mask 0.
fn with_mark(request: Request, key: &PolicyKey) -> Request {
    if key.mark == 0 && key.mark_mask == 0 {
        return request;
    }
    let mark = Mark {
        value: key.mark,
        mask: key.mark_mask,
    };
    request.attribute(nl::XFRMA_MARK, &[&emitted(&mark)])
}

fn emitted(value: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; value.buffer_len()];
    value.emit(&mut bytes);
    bytes
}

/// Whether `address` is inside the selector's prefix `network/length`.
pub(super) fn contains(network: &Address, length: u8, address: IpAddr) -> bool {
    let (network, address) = match address {
        IpAddr::V4(address) => (
            u128::from(u32::from(network.to_ipv4())) << 96,
            u128::from(u32::from(address)) << 96,
        ),
        IpAddr::V6(address) => (u128::from(network.to_ipv6()), u128::from(address)),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    network & mask == address & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ownership = Ownership {
        reqid: 7,
        block_priority: 9000,
        policy_priority: 1000,
        port: 4789,
        if_id: 3,
    };

    fn found(key: &PolicyKey, policy: &Policy) -> Found {
        let Ok(planned) = install(nl::XFRM_MSG_NEWPOLICY, key, policy) else {
            panic!("not a policy to install");
        };
        let mut request = planned.request;
        let bytes = request.bytes_with_sequence(0);
        Found::parse(&bytes[super::super::wire::HEADER_LEN..]).unwrap()
    }

    fn encrypt() -> (PolicyKey, Policy) {
        let key = PolicyKey {
            source: "2001:db8::1".parse().unwrap(),
            destination: Some("2001:db8::2".parse().unwrap()),
            udp_port: None,
            mark: 0x10_0000,
            mark_mask: 0xff_0000,
        };
        let spi = Spi::new(0x3001).unwrap();
        let action = PolicyAction::Encrypt { spi, reqid: 7 };
        let policy = Policy {
            priority: 1000,
            action,
        };
        (key, policy)
    }

    fn block() -> (PolicyKey, Policy) {
        let key = PolicyKey {
            source: "192.0.2.1".parse().unwrap(),
            destination: None,
            udp_port: Some(4789),
            mark: 0,
            mark_mask: 0,
        };
        let policy = Policy {
            priority: 9000,
            action: PolicyAction::Block,
        };
        (key, policy)
    }

    #[test]
    fn policies_are_read_back_as_written() {
        for (key, policy) in [encrypt(), block()] {
            assert_eq!(found(&key, &policy).ours(&OURS), Some((key, policy)));
        }
    }

    #[test]
    fn optional_template_is_not_what_we_install() {
        let (key, policy) = encrypt();
        let mut found = found(&key, &policy);
        found.templates[0].optional = 1;
        let (_, policy) = found.ours(&OURS).unwrap();
        assert_eq!(policy.action, PolicyAction::Other);
    }

    #[test]
    fn block_of_other_software_is_not_ours() {
        let (key, mut policy) = block();
        policy.priority = 10;
        assert_eq!(found(&key, &policy).ours(&OURS), None);
    }

    #[test]
    fn prefixes_of_both_families_and_the_default_route_contain() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let net = |text: &str| Address::from_ip(&ip(text));
        assert!(contains(&net("10.0.0.0"), 8, ip("10.9.9.9")));
        assert!(!contains(&net("10.0.0.0"), 8, ip("11.0.0.0")));
        assert!(contains(&net("0.0.0.0"), 0, ip("11.0.0.0")));
        assert!(contains(&net("2001:db8::"), 32, ip("2001:db8:1::1")));
        assert!(contains(&net("2001:db8::1"), 128, ip("2001:db8::1")));
        assert!(!contains(&net("2001:db8::1"), 128, ip("2001:db8::2")));
    }
}
