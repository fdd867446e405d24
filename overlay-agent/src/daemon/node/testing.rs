//! Places for tests.

use crate::kernel::features::unshare_network;

/// Runs a test in a network namespace of its own, where every address of 192.0.2.0/24 is local.
pub fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let done = std::thread::spawn(|| {
        unshare_network().expect("run as root: the test has a network of its own");
        for arguments in ["link set lo up", "route add local 192.0.2.0/24 dev lo"] {
            let done = std::process::Command::new("ip")
                .args(arguments.split(' '))
                .status();
            assert!(done.is_ok_and(|status| status.success()), "{arguments}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(test);
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}
