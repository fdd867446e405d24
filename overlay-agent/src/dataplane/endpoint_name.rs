//! Name of the host-side device of a local endpoint.

use overlay_ebpf::abi::{MacAddr, Vni};

/// First letters of every host-side endpoint device.
pub const PREFIX: &str = "ovle";

/// The host-side device of the endpoint `mac` in network `vni`: [`PREFIX`] and ten hexadecimal
/// digits, 14 characters (the kernel allows 15).
///
/// Deterministic, so that a new agent finds the devices of the last one. Two endpoints of one node
/// share a name with probability 2⁻⁴⁰; creating the second then fails and names the first.
pub fn host_device_name(vni: Vni, mac: MacAddr) -> String {
    let [_, v @ ..] = vni.get().to_be_bytes();
    let hash = mix(v.iter().chain(&mac.0).fold(FNV_OFFSET, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
    }));
    format!("{PREFIX}{:010x}", hash >> 24)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Finalizer of MurmurHash3: FNV-1a alone leaves the last bytes out of the upper bits.
const fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn name_fits_the_kernel_limit_and_never_changes() {
        let name = host_device_name(Vni::new(4097).unwrap(), MacAddr([2, 0x42, 10, 0, 9, 2]));
        assert_eq!(name.len(), 14);
        assert_eq!(name, "ovled16e653066");
    }

    #[test]
    fn neighbouring_endpoints_get_different_names() {
        let names: HashSet<_> = (4096..4106)
            .flat_map(|vni| (0..=255).map(move |host| (vni, host)))
            .map(|(vni, host)| {
                host_device_name(Vni::new(vni).unwrap(), MacAddr::from_ipv4([10, 0, 0, host]))
            })
            .collect();
        assert_eq!(names.len(), 10 * 256);
    }
}
