//! Where a test binary must hold. What this machine lacks is not skipped: it is
//! tested in the VM.

use crate::command;
use crate::say;
use crate::vm::Kernel;

/// A place where tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The running kernel.
    Here,
    /// The test VM.
    Vm(Kernel),
}

/// What this machine can do.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// `uname -r`.
    pub release: String,
    /// Kernel tests and the VM need it.
    pub root: bool,
    /// Whether the running kernel has IPsec as the data plane uses it.
    pub ipsec: bool,
}

impl Machine {
    /// Looks at this machine.
    pub fn look(root: bool) -> Self {
        let ipsec = root && has_ipsec();
        if root && !ipsec {
            say::note("the running kernel lacks ESP: encrypted tests run in the VM");
        }
        Self {
            release: super::release().unwrap_or_default(),
            root,
            ipsec,
        }
    }
}

/// How much is tested on how many kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breadth {
    /// Everything on every kernel it must hold on.
    Whole,
    /// Those of [`SPREAD`] on one VM kernel each, everything else as [`Breadth::Whole`].
    Spread,
    /// Each in one place: the running kernel where it can, else the newest VM kernel.
    Quick,
}

/// The tests that take the VMs' time, and which kernel each has in [`Breadth::Spread`]: about the same
/// time for both.
const SPREAD: [(&str, Kernel); 11] = [
    ("encrypted_cluster", Kernel::V6_12),
    ("encrypted_drift", Kernel::V6_12),
    ("encrypted_frames", Kernel::V6_1),
    ("encrypted_host", Kernel::V6_12),
    ("encrypted_never_accepted", Kernel::V6_1),
    ("encrypted_never_in_clear", Kernel::V6_12),
    ("encrypted_no_repeated_nonce", Kernel::V6_12),
    ("encrypted_traffic", Kernel::V6_1),
    ("kernel_bpf_pins", Kernel::V6_1),
    ("kernel_netlink", Kernel::V6_12),
    ("vm_modules", Kernel::V6_1),
];

/// What is also tested on the oldest kernel, though it needs nothing that the running one lacks: there
/// other helpers do the work where the families inside and outside differ.
const ON_THE_OLDEST: &str = "plain_frames";

/// Whether it runs in a guest whose time counts instructions.
pub fn counts(name: &str) -> bool {
    name.starts_with("counted_")
}

/// The places for a binary of this name; none if they need root.
pub fn of(name: &str, machine: &Machine, kernels: &[Kernel], breadth: Breadth) -> Vec<Place> {
    let quick = breadth == Breadth::Quick;
    let newest = kernels.iter().max().copied().map(Place::Vm);
    if counts(name) {
        return newest.into_iter().filter(|_| machine.root).collect();
    }
    let all = kernels.iter().copied().map(Place::Vm);
    let prefix = name.split('_').next().unwrap_or_default();
    if !matches!(prefix, "kernel" | "plain" | "encrypted" | "vm") {
        return vec![Place::Here];
    }
    if !machine.root {
        return Vec::new();
    }
    let here = match prefix {
        "kernel" | "plain" => true,
        "encrypted" => machine.ipsec,
        // What would disturb this machine, such as unloading modules.
        _ => false,
    };
    let mut places = Vec::new();
    if here {
        places.push(Place::Here);
    }
    match prefix {
        // Without IPsec the running kernel refuses half of what these try.
        "kernel" if quick && !machine.ipsec => places.extend(newest),
        _ if quick && here => {}
        _ if quick => places.extend(newest),
        "plain" if name == ON_THE_OLDEST => {
            places.extend(kernels.iter().min().copied().map(Place::Vm));
        }
        // They need nothing that the running kernel lacks.
        "plain" => {}
        _ => {
            let spread = SPREAD.iter().find(|(spread, _)| *spread == name);
            let only = spread.filter(|_| breadth == Breadth::Spread);
            places.extend(
                all.filter(|place| only.is_none_or(|(_, kernel)| *place == Place::Vm(*kernel))),
            );
        }
    }
    places
}

/// Tries it in a network namespace of its own, which ends with the trial.
fn has_ipsec() -> bool {
    let key = "00".repeat(36);
    let script = format!(
        "ip link set lo up && ip link add x0 type xfrm dev lo if_id 7 && \
         ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x1001 mode beet if_id 7 \
         sel src 127.0.0.1/32 dst 127.0.0.2/32 aead 'rfc4106(gcm(aes))' 0x{key} 128"
    );
    command::succeeds(std::process::Command::new("unshare").args(["--net", "sh", "-c", &script]))
}

#[cfg(test)]
mod tests {
    use super::Breadth::{Quick, Spread, Whole};
    use super::Kernel::{V6_1, V6_12};
    use super::Place::{Here, Vm};
    use super::*;

    const ALL: &[Kernel] = &Kernel::ALL;

    #[test]
    fn what_counts_instructions_runs_once_on_the_newest_vm_kernel() {
        for breadth in [Whole, Spread, Quick] {
            let places = of("counted_paths", &machine(true, true), ALL, breadth);
            assert_eq!(places, [Vm(V6_12)]);
        }
        assert!(of("counted_paths", &machine(false, false), ALL, Whole).is_empty());
    }

    fn machine(root: bool, ipsec: bool) -> Machine {
        Machine {
            root,
            ipsec,
            ..Machine::default()
        }
    }

    #[test]
    fn programs_are_tested_on_every_kernel() {
        assert_eq!(
            of("kernel_programs", &machine(true, false), ALL, Whole),
            [Here, Vm(V6_1), Vm(V6_12)]
        );
    }

    #[test]
    fn plain_networks_are_tested_here() {
        assert_eq!(of("plain_tcp", &machine(true, false), ALL, Whole), [Here]);
        assert_eq!(
            of("plain_frames", &machine(true, false), ALL, Whole),
            [Here, Vm(V6_1)]
        );
    }

    #[test]
    fn encrypted_networks_are_tested_here_only_with_ipsec() {
        assert_eq!(
            of("encrypted_tcp", &machine(true, false), ALL, Whole),
            [Vm(V6_1), Vm(V6_12)]
        );
        assert_eq!(
            of("encrypted_tcp", &machine(true, true), ALL, Whole),
            [Here, Vm(V6_1), Vm(V6_12)]
        );
    }

    #[test]
    fn what_takes_time_is_spread_over_the_kernels_and_nothing_else_is() {
        let spread = |name| of(name, &machine(true, false), ALL, Spread);
        for (name, kernel) in SPREAD {
            let places = spread(name);
            let vms: Vec<_> = places.iter().filter(|place| **place != Here).collect();
            assert_eq!(vms, [&Vm(kernel)], "{name}");
        }
        assert_eq!(spread("kernel_bpf_pins"), [Here, Vm(V6_1)]);
        assert_eq!(spread("encrypted_tcp"), [Vm(V6_1), Vm(V6_12)]);
        assert_eq!(spread("kernel_programs"), [Here, Vm(V6_1), Vm(V6_12)]);
    }

    #[test]
    fn quick_takes_one_place_that_has_ipsec() {
        let quick = |name, ipsec| of(name, &machine(true, ipsec), ALL, Quick);
        assert_eq!(quick("kernel_programs", true), [Here]);
        assert_eq!(quick("plain_tcp", false), [Here]);
        assert_eq!(quick("kernel_programs", false), [Here, Vm(V6_12)]);
        assert_eq!(quick("encrypted_tcp", false), [Vm(V6_12)]);
        assert_eq!(quick("encrypted_tcp", true), [Here]);
        assert_eq!(quick("vm_modules", true), [Vm(V6_12)]);
    }

    #[test]
    fn without_root_only_host_tests_have_a_place() {
        let of = |name| of(name, &machine(false, false), ALL, Whole);
        assert_eq!(of("simulation"), [Here]);
        assert_eq!(of("kernel_programs"), []);
        assert_eq!(of("encrypted_tcp"), []);
    }

    #[test]
    fn what_disturbs_the_machine_never_runs_here() {
        assert_eq!(
            of("vm_modules", &machine(true, true), &[V6_1], Whole),
            [Vm(V6_1)]
        );
    }
}
