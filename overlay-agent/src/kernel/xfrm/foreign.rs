//! Policies and SAs of other software that meet our traffic.

use std::{fmt, net::IpAddr};

use netlink_packet_xfrm::constants as nl;

use super::{
    Ownership, policies,
    states::{self, address},
};

/// Something of other software in XFRM that meets our traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    pub severity: Severity,
    /// The object, for example `policy out 10.0.0.0/8 → 0.0.0.0/0 priority 100`.
    pub object: String,
    /// What it does to us.
    pub effect: &'static str,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth a look.
    Notice,
    /// Traffic of ours does not pass.
    Breaks,
    /// Traffic of ours could pass one of the three barriers in clear.
    Opens,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.effect)
    }
}

pub(super) fn policy(
    ours: &Ownership,
    vteps: &[IpAddr],
    found: &policies::Found,
) -> Option<Foreign> {
    if found.ours(ours).is_some() {
        return None;
    }
    let judged = |severity, effect| {
        Some(Foreign {
            severity,
            object: describe_policy(found),
            effect,
        })
    };
    let meets = found.info.direction == nl::XFRM_POLICY_OUT
        && found.if_id == 0
        && found.info.priority <= ours.block_priority
        && meets_our_traffic(ours, vteps, found);
    let opens = meets
        && found.info.action == nl::XFRM_POLICY_ALLOW
        && found
            .templates
            .iter()
            .all(|template| template.optional != 0);
    if opens {
        judged(
            Severity::Opens,
            "it lets the overlay's packets out in clear ahead of the block policy",
        )
    } else if found.has_reqid(ours.reqid) {
        judged(
            Severity::Notice,
            "it uses the overlay's reqid: set another for one of them",
        )
    } else if !meets {
        None
    } else if found.info.priority <= ours.policy_priority {
        judged(
            Severity::Breaks,
            "it takes packets of the overlay before its own policies do",
        )
    } else {
        judged(
            Severity::Notice,
            "it takes packets of the overlay for which there is no SA",
        )
    }
}

/// Whether a packet that we send could match the selector, whatever its mark: other software may
/// have changed it.
fn meets_our_traffic(ours: &Ownership, vteps: &[IpAddr], found: &policies::Found) -> bool {
    let selector = &found.info.selector;
    let source = vteps.iter().any(|&vtep| {
        address(&selector.saddr, selector.family)
            .is_some_and(|network| network.is_ipv4() == vtep.is_ipv4())
            && policies::contains(&selector.saddr, selector.prefixlen_s, vtep)
    });
    let protocol = selector.proto == 0 || i32::from(selector.proto) == libc::IPPROTO_UDP;
    let port = selector.dport & selector.dport_mask == ours.port & selector.dport_mask;
    source && protocol && port
}

fn describe_policy(found: &policies::Found) -> String {
    let info = &found.info;
    let selector = &info.selector;
    let direction = match info.direction {
        nl::XFRM_POLICY_IN => "in",
        nl::XFRM_POLICY_OUT => "out",
        nl::XFRM_POLICY_FWD => "fwd",
        // 3 to 5: bound to one socket (XFRM_POLICY_MAX in net/xfrm.h).
        _ => "socket",
    };
    let prefix = |found, length| match address(found, selector.family) {
        Some(found) => format!("{found}/{length}"),
        None => "any".to_owned(),
    };
    let action = if info.action == nl::XFRM_POLICY_BLOCK {
        " block"
    } else {
        ""
    };
    format!(
        "policy {direction}{action} {} → {} priority {} mark {:#x}/{:#x}",
        prefix(&selector.saddr, selector.prefixlen_s),
        prefix(&selector.daddr, selector.prefixlen_d),
        info.priority,
        found.mark.value,
        found.mark.mask,
    )
}

pub(super) fn state(ours: &Ownership, vteps: &[IpAddr], found: &states::Found) -> Option<Foreign> {
    if found.larval || found.ours(ours).is_some() {
        return None;
    }
    let effect = if found.reqid == ours.reqid {
        (
            Severity::Notice,
            "it uses the overlay's reqid: set another for one of them",
        )
    } else if found.if_id == ours.if_id && ours.if_id != 0 {
        (
            Severity::Breaks,
            "it delivers to the overlay's xfrm interface, where its packets are dropped: set another if_id",
        )
    } else if vteps.contains(&found.source) || vteps.contains(&found.destination) {
        (
            Severity::Notice,
            "another IPsec daemon serves this VTEP: its SPIs must stay clear of the overlay's",
        )
    } else {
        return None;
    };
    Some(Foreign {
        severity: effect.0,
        object: format!(
            "state {} → {} protocol {} SPI {:#010x} reqid {} if_id {:#x}",
            found.source, found.destination, found.protocol, found.spi, found.reqid, found.if_id
        ),
        effect: effect.1,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_xfrm::{Mark, UserPolicyInfo, UserTemplate};

    use super::*;

    const OURS: Ownership = Ownership {
        reqid: 7,
        block_priority: 9000,
        policy_priority: 1000,
        port: 4789,
        if_id: 3,
    };
    const VTEP: &str = "10.0.0.1";

    fn allow(network: &str, length: u8, priority: u32) -> policies::Found {
        let mut info = UserPolicyInfo {
            direction: nl::XFRM_POLICY_OUT,
            action: nl::XFRM_POLICY_ALLOW,
            priority,
            ..UserPolicyInfo::default()
        };
        info.selector
            .source_prefix(&network.parse().unwrap(), length);
        info.selector.prefixlen_s = length;
        policies::Found {
            info,
            mark: Mark::default(),
            if_id: 0,
            templates: Vec::new(),
        }
    }

    fn judge(found: policies::Found) -> Option<Severity> {
        let vteps = [VTEP.parse().unwrap()];
        policy(&OURS, &vteps, &found)
            .into_iter()
            .collect::<Vec<_>>()
            .first()
            .map(|foreign| foreign.severity)
    }

    #[test]
    fn allowing_policy_ahead_of_the_block_opens_a_barrier() {
        assert_eq!(judge(allow("10.0.0.0", 8, 8999)), Some(Severity::Opens));
        assert_eq!(judge(allow("0.0.0.0", 0, 8999)), Some(Severity::Opens));
        assert_eq!(judge(allow("10.0.0.0", 8, 9001)), None);
        assert_eq!(judge(allow("192.168.0.0", 16, 1)), None);
    }

    #[test]
    fn allowing_policy_opens_a_barrier_whatever_its_reqid() {
        let mut found = allow("10.0.0.0", 8, 8999);
        found.templates.push(UserTemplate {
            reqid: OURS.reqid,
            optional: 1,
            ..UserTemplate::default()
        });
        assert_eq!(judge(found.clone()), Some(Severity::Opens));
        found.templates[0].optional = 0;
        assert_eq!(judge(found), Some(Severity::Notice));
    }

    #[test]
    fn policy_of_another_protocol_or_port_does_not_meet_ours() {
        let mut tcp = allow("10.0.0.0", 8, 1);
        tcp.info.selector.proto = libc::IPPROTO_TCP as u8;
        assert_eq!(judge(tcp), None);
        let mut dns = allow("10.0.0.0", 8, 1);
        dns.info.selector.proto = libc::IPPROTO_UDP as u8;
        dns.info.selector.dport = 53;
        dns.info.selector.dport_mask = u16::MAX;
        assert_eq!(judge(dns), None);
    }

    #[test]
    fn required_template_ahead_of_ours_breaks_and_behind_is_a_notice() {
        let with_template = |priority| {
            let mut found = allow("10.0.0.0", 8, priority);
            found.templates.push(UserTemplate::default());
            found
        };
        assert_eq!(judge(with_template(500)), Some(Severity::Breaks));
        assert_eq!(judge(with_template(5000)), Some(Severity::Notice));
    }
}
