// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A sequence of operations: every answer, and the whole tree, are those of the model.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rpramfs_tests::steps::{sequence, Lean, Step};

/// Bytes of a step.
const STEP: usize = 17;

fuzz_target!(|input: &[u8]| {
    let Some((&first, input)) = input.split_first() else {
        return;
    };
    let steps: Vec<Step> = input
        .chunks_exact(STEP)
        .take(200)
        .map(|b| Step {
            kind: b[0],
            a: u16::from_le_bytes([b[1], b[2]]),
            b: u16::from_le_bytes([b[3], b[4]]),
            c: u32::from_le_bytes([b[5], b[6], b[7], b[8]]),
            d: u64::from_le_bytes(b[9..].try_into().expect("8 bytes")),
        })
        .collect();
    let lean = [
        Lean::Everything,
        Lean::Names,
        Lean::Contents,
        Lean::Attributes,
    ][usize::from(first) % 4];
    // The least region is full soon.
    let bytes = [1 << 20, 4 << 20][usize::from(first / 4) % 2];
    if let Err(e) = sequence(&steps, lean, bytes) {
        panic!("{e}");
    }
});
