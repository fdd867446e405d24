//! `local_ports`, `endpoints`, `addresses`: who is where.

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

/// Key of `local_ports`: the host-side device of a local endpoint.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct LocalPortKey {
    pub ifindex: u32,
}

/// Value of `local_ports`: what a frame from this device may say of itself.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct LocalPort {
    pub vni: u32,
    /// The only source MAC that may leave through this port.
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}

/// Key of `endpoints`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct EndpointKey {
    pub vni: u32,
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}

/// Where an endpoint is.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub enum Location {
    /// On this node, behind `ifindex`.
    Local = 1,
    /// On the node `peer`.
    Remote = 2,
}

/// Value of `endpoints`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit, CheckedBitPattern)]
pub struct Endpoint {
    pub location: Location,
    /// Host-side device of a local endpoint, else 0.
    pub ifindex: u32,
    /// Node index of a remote endpoint, else 0.
    pub peer: u32,
}

/// Key of `addresses`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct AddressKey {
    pub vni: u32,
    pub address: [u8; 16],
}

/// Value of `addresses`: the endpoint that owns the address. Answers ARP and ND, and checks sources.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Address {
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}
