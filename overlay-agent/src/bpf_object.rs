//! The BPF object inside this binary, see `build.rs`.

include!(concat!(env!("OUT_DIR"), "/bpf_object.rs"));
