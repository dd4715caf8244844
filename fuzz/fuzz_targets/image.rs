// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A damaged image: no panic, no work without bounds, and after a repair nothing to be repaired.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rpramfs_fuzz::Bench;

thread_local! {
    static BENCH: Bench = Bench::default();
}

fuzz_target!(|input: &[u8]| BENCH.with(|b| b.image(input)));
