//! A network namespace, and a BPF file system, with the devices, routes and neighbours of [`super::world`].
//!
//! It belongs to one thread and ends with it, however the test ends.

use std::{
    fs,
    io::Write as _,
    panic,
    process::{Command, Stdio},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Device indices are those of [`super::world::device`]; an endpoint's end has 100 more.
const DEVICES: &str = "\
link set lo up
link add name plain-a index 11 type veth peer name plain-a-in index 111
link add name plain-b index 12 type veth peer name plain-b-in index 112
link add name secret-a index 13 type veth peer name secret-a-in index 113
link add name secret-b index 14 type veth peer name secret-b-in index 114
link add name ovl-hop index 31 type veth peer name ovl-in index 32
link add name ovl-xfrm index 33 type veth peer name ovl-xfrm-in index 133
link add name underlay index 41 address 02:00:00:00:00:01 type veth peer name wire index 42
link set plain-a up
link set plain-a-in up
link set plain-b up
link set plain-b-in up
link set secret-a up
link set secret-a-in up
link set secret-b up
link set secret-b-in up
link set ovl-hop up
link set ovl-in address 02:6f:76:6c:00:01
link set ovl-in up
link set ovl-xfrm up
link set ovl-xfrm-in up
link set underlay up
link set wire up
";

/// The MTUs are locked: forwarding, and so the lookup of the programs, overlooks others that a
/// discovery has not learnt (`ip_mtu_from_fib_result`).
const ADDRESSES: &str = "\
addr add 192.0.2.1/24 dev underlay
addr add 2001:db8::1/64 dev underlay nodad
neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev underlay nud permanent
neigh replace 2001:db8::3 lladdr 02:00:00:00:00:03 dev underlay nud permanent
route add 192.0.2.50/32 dev underlay mtu lock 1300
route add 2001:db8::50/128 dev underlay mtu lock 1400
neigh replace 192.0.2.50 lladdr 02:00:00:00:00:02 dev underlay nud permanent
neigh replace 2001:db8::50 lladdr 02:00:00:00:00:03 dev underlay nud permanent
";

/// Runs `work` in a new network namespace.
pub fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                build();
            }
            work()
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => panic::resume_unwind(panic),
        }
    })
}

fn build() {
    // SAFETY: the flags leave the table of file descriptors alone.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }
        .expect("network and mount namespaces of our own");
    // Pins of the test end with its thread.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .expect("mounts of our own");
    mount(
        "bpf",
        "/sys/fs/bpf",
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .expect("a BPF file system of our own");
    // Neighbour discovery by the kernel would mix with what is captured.
    sysctl("ipv6/conf/default/disable_ipv6", "1");
    ip(DEVICES);
    sysctl("ipv6/conf/underlay/disable_ipv6", "0");
    sysctl("ipv6/conf/ovl-in/disable_ipv6", "0");
    // A lookup of the FIB is one for forwarding.
    sysctl("ipv4/conf/ovl-in/forwarding", "1");
    sysctl("ipv6/conf/ovl-in/forwarding", "1");
    ip(ADDRESSES);
}

fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
}

/// Runs lines of `ip` in the namespace of the calling thread.
pub fn ip(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("`ip` starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(lines.as_bytes())
        .expect("`ip` reads");
    let status = child.wait().expect("`ip` ends");
    assert!(status.success(), "`ip -batch` ended with {status}");
}
