//! Tables of what the test VM mounts, for `mount -a -T`. Order counts.

/// What a shell needs to work at all.
pub const FIRST: &str = "\
proc /proc proc defaults 0 0
sysfs /sys sysfs defaults 0 0
devtmpfs /dev devtmpfs defaults 0 0
";

/// The host's root, and the memory that takes the guest's changes.
pub const HOST: &str = "\
root /host virtiofs ro 0 0
tmpfs /above tmpfs defaults 0 0
";

/// The guest's root. `switch_root` moves /dev, /proc and /sys there, and what
/// is mounted in them. `/run/host` is for bind mounts of what a tmpfs covers.
pub const NEW: &str = "\
overlay /new overlay lowerdir=/host,upperdir=/above/upper,workdir=/above/work 0 0
tmpfs /new/tmp tmpfs mode=1777 0 0
tmpfs /new/run tmpfs mode=755 0 0
/host /new/run/host none bind,ro,X-mount.mkdir 0 0
devpts /dev/pts devpts X-mount.mkdir 0 0
tmpfs /dev/shm tmpfs X-mount.mkdir 0 0
bpf /sys/fs/bpf bpf defaults 0 0
cgroup2 /sys/fs/cgroup cgroup2 defaults 0 0
debugfs /sys/kernel/debug debugfs defaults 0 0
tracefs /sys/kernel/tracing tracefs defaults 0 0
";

/// A path as a field of such a table.
pub fn field(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_paths_do_not_end_the_field() {
        assert_eq!(field("/a b\\c"), "/a\\040b\\134c");
        assert_eq!(field("/plain"), "/plain");
    }
}
