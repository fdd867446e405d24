//! Which program runs where.

use overlay_ebpf::abi::program;

use crate::dataplane::objects::Program;

/// Where a program runs on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Hook {
    TcIngress,
    TcEgress,
    Xdp(XdpMode),
}

/// How an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, on skbs.
    Generic,
}

impl Hook {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TcIngress => "TC ingress",
            Self::TcEgress => "TC egress",
            Self::Xdp(XdpMode::Native) => "native XDP",
            Self::Xdp(XdpMode::Generic) => "generic XDP",
        }
    }
}

/// Every program of the object, in the order a packet meets them. The position stands in the
/// handle of clsact filters: append, never reorder.
pub(super) const PROGRAMS: [&str; 8] = [
    program::ENDPOINT_TX,
    program::REENTRY,
    program::UNDERLAY_RX_XDP,
    program::UNDERLAY_RX,
    program::DECRYPTED_RX,
    program::UNDERLAY_AUDIT,
    program::SINK,
    program::UNDERLAY_AUDIT_L3,
];

/// Every way in which a program is attached.
pub(super) const ATTACHABLE: [Program; 9] = [
    Program::EndpointTx,
    Program::Reentry,
    Program::UnderlayRxXdpNative,
    Program::UnderlayRxXdpGeneric,
    Program::UnderlayRx,
    Program::DecryptedRx,
    Program::UnderlayAudit,
    Program::UnderlayAuditL3,
    Program::Sink,
];

/// Name of the program in the object.
pub(super) const fn name(program: Program) -> &'static str {
    match program {
        Program::EndpointTx => program::ENDPOINT_TX,
        Program::Reentry => program::REENTRY,
        Program::UnderlayRxXdpNative | Program::UnderlayRxXdpGeneric => program::UNDERLAY_RX_XDP,
        Program::UnderlayRx => program::UNDERLAY_RX,
        Program::DecryptedRx => program::DECRYPTED_RX,
        Program::UnderlayAudit => program::UNDERLAY_AUDIT,
        Program::UnderlayAuditL3 => program::UNDERLAY_AUDIT_L3,
        Program::Sink => program::SINK,
    }
}

pub(super) const fn hook(program: Program) -> Hook {
    match program {
        Program::EndpointTx
        | Program::Reentry
        | Program::UnderlayRx
        | Program::DecryptedRx
        | Program::Sink => Hook::TcIngress,
        Program::UnderlayAudit | Program::UnderlayAuditL3 => Hook::TcEgress,
        Program::UnderlayRxXdpNative => Hook::Xdp(XdpMode::Native),
        Program::UnderlayRxXdpGeneric => Hook::Xdp(XdpMode::Generic),
    }
}

/// The TC program with this name.
pub(super) fn tc_program(wanted: &str) -> Option<Program> {
    ATTACHABLE
        .into_iter()
        .find(|&program| !matches!(hook(program), Hook::Xdp(_)) && name(program) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attachable_program_is_in_the_object() {
        for program in ATTACHABLE {
            assert!(PROGRAMS.contains(&name(program)), "{program:?}");
        }
        for name_ in PROGRAMS {
            assert!(ATTACHABLE.into_iter().any(|p| name(p) == name_), "{name_}");
        }
    }

    #[test]
    fn tc_programs_are_found_by_name_and_xdp_is_not() {
        assert_eq!(
            tc_program(program::UNDERLAY_AUDIT),
            Some(Program::UnderlayAudit)
        );
        assert_eq!(tc_program(program::UNDERLAY_RX_XDP), None);
    }
}
