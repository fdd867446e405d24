//! Says what a build without the feature `kernel` leaves out.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_KERNEL").is_none() {
        println!(
            "cargo:warning=without the kernel tests: `cargo xtask test` runs them, with the programs, \
             the privileges and the kernels that they need"
        );
    }
}
