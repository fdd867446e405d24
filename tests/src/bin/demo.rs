//! `cargo xtask demo` runs this, here or in the test VM.

use std::process::ExitCode;

use overlay_tests::{
    demo,
    supervise::{self, Interrupt},
};

fn main() -> ExitCode {
    let (mut keep, mut without_ipsec) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--without-ipsec" => without_ipsec = true,
            other => {
                eprintln!(
                    "demo: unknown argument {other}; only --keep and --without-ipsec are known"
                );
                return ExitCode::from(2);
            }
        }
    }
    // In the shell of `--keep` Ctrl-C is the shell's affair.
    let interrupt = if keep {
        Interrupt::IsTheChilds
    } else {
        Interrupt::Ends
    };
    supervise::in_child("demo", interrupt, || {
        demo::run(keep, without_ipsec).map(|good| u8::from(!good))
    })
}
