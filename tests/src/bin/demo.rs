//! `cargo xtask demo` runs this, here or in the test VM.

use std::process::ExitCode;

use overlay_tests::demo;

fn main() -> ExitCode {
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            other => {
                eprintln!("demo: unknown argument {other}; only --keep is known");
                return ExitCode::from(2);
            }
        }
    }
    match demo::run(keep) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
