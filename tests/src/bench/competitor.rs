//! Who is compared.

use super::Cipher;

/// A way from container to container, or host to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Competitor {
    /// This project.
    Ours,
    /// Docker's overlay driver: a sandbox with bridge and vxlan, a mark by a rule for the VNI, a
    /// policy by mark, rules on what comes in.
    Docker,
    /// The best of the kernel: bridge and vxlan on the host, a policy by selector alone.
    Kernel,
    /// The same over a WireGuard device.
    WireguardVxlan,
    /// Containers routed through a WireGuard device: no layer 2.
    WireguardRouted,
    /// No overlay: from host to host.
    Raw,
}

impl Competitor {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 6] = [
        Self::Ours,
        Self::Docker,
        Self::Kernel,
        Self::WireguardVxlan,
        Self::WireguardRouted,
        Self::Raw,
    ];

    /// As in the samples.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Docker => "docker",
            Self::Kernel => "kernel",
            Self::WireguardVxlan => "wireguard-vxlan",
            Self::WireguardRouted => "wireguard-routed",
            Self::Raw => "raw",
        }
    }

    /// First part of the names of its namespaces.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Ours => "o",
            Self::Docker => "d",
            Self::Kernel => "k",
            Self::WireguardVxlan => "wv",
            Self::WireguardRouted => "wr",
            Self::Raw => "r",
        }
    }

    /// WireGuard has a cipher of its own and no null cipher; the wire itself has none.
    pub fn runs_with(self, cipher: Cipher) -> bool {
        match self {
            Self::Ours | Self::Docker | Self::Kernel => true,
            Self::WireguardVxlan | Self::WireguardRouted => cipher == Cipher::AesGcm,
            Self::Raw => cipher != Cipher::Null,
        }
    }
}
