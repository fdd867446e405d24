//! Where the loads run, with which encryption, and in which time.

use std::fmt;

/// One table of the result.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Plain networks on the running kernel
    PlainHere,
    /// Plain networks in the VM that counts instructions
    PlainCounted,
    /// ESP with the null cipher in the VM that counts instructions
    NullCounted,
    /// AES-256-GCM, and WireGuard, in the VM that counts instructions
    AesGcmCounted,
    /// AES-256-GCM, and WireGuard, in the VM in wall time
    AesGcmWall,
}

impl Setting {
    pub const ALL: [Self; 5] = [
        Self::PlainHere,
        Self::PlainCounted,
        Self::NullCounted,
        Self::AesGcmCounted,
        Self::AesGcmWall,
    ];

    /// As in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlainHere => "plain-here",
            Self::PlainCounted => "plain-counted",
            Self::NullCounted => "null-counted",
            Self::AesGcmCounted => "aes-gcm-counted",
            Self::AesGcmWall => "aes-gcm-wall",
        }
    }

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::PlainHere => "Plain, running kernel, wall time",
            Self::PlainCounted => "Plain, VM, instructions",
            Self::NullCounted => "Encrypted with the null cipher, VM, instructions",
            Self::AesGcmCounted => "Encrypted with AES-256-GCM, VM, instructions",
            Self::AesGcmWall => "Encrypted with AES-256-GCM, VM, wall time under emulation",
        }
    }

    /// The cipher, as `overlay-bench` names it.
    pub fn cipher(self) -> &'static str {
        match self {
            Self::PlainHere | Self::PlainCounted => "plain",
            Self::NullCounted => "null",
            Self::AesGcmCounted | Self::AesGcmWall => "aes-gcm",
        }
    }

    /// Whether it runs in a VM, and one whose time counts instructions.
    pub fn is_counted(self) -> bool {
        match self {
            Self::PlainHere | Self::AesGcmWall => false,
            Self::PlainCounted | Self::NullCounted | Self::AesGcmCounted => true,
        }
    }

    pub fn is_here(self) -> bool {
        self == Self::PlainHere
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
