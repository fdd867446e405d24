#![no_main]

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    overlay_fuzz::targets::vxlan(frame);
});
