//! The decoder of images. A panic of the decoder is caught and becomes an error, so the hook of the fuzzer, which ends the process at once, is replaced. A panic that is not
//! caught still ends it.
#![no_main]

use std::sync::Once;

#[path = "../src/bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    bodies::image(data);
});
