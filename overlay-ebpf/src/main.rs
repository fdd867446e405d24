#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("the BPF programs build for a BPF target only: run `cargo xtask build`");
    std::process::exit(1);
}
