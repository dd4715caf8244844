// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Writes what the fuzzer starts from: an input for each field of each kind of structure, and some
//! sequences of operations.

use rpramfs_fuzz::{Bench, Blow};
use rpramfs_tests::host::Rng;
use std::collections::BTreeSet;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let (image, operations) = (root.join("image"), root.join("operations"));
    std::fs::create_dir_all(&image)?;
    std::fs::create_dir_all(&operations)?;
    let bench = Bench::default();
    let mut seen = BTreeSet::new();
    for (which, s) in bench.specimens().iter().enumerate() {
        for (n, block) in s.anatomy.blocks.iter().enumerate() {
            for field in &block.fields {
                if !seen.insert((which, block.kind, field.name)) {
                    continue;
                }
                let blow = Blow {
                    block: n as u16,
                    mended: block.is_vouched_for(),
                    at: field.at as u16,
                    len: field.size.min(8) as u8,
                    how: 1,
                    bytes: 1u64.to_le_bytes(),
                };
                let mut input = vec![which as u8];
                input.extend(blow.encode());
                let name = format!("{which}-{:?}-{}", block.kind, field.name.replace(' ', "-"));
                std::fs::write(image.join(name), input)?;
            }
        }
    }
    for seed in 0..64 {
        let input = Rng(seed).bytes(1 + 17 * (4 << (seed % 5)));
        std::fs::write(operations.join(format!("{seed}")), input)?;
    }
    println!("{} images, 64 sequences in {}", seen.len(), root.display());
    Ok(())
}
