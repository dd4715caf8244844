// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Damage as a list of stores: short inputs for the fuzzer, whatever the size of the image.
//!
//! An input is a byte that chooses the image, then stores of 14 bytes each: structure u16 (its top
//! bit: checksums are mended afterwards), offset in it u16, length u8 (at most 8), what to do u8
//! (see [`Input::apply`]), and 8 bytes to store.

use fs_core::{Ino, Region};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::ordeal::{repaired, tour};
use rpramfs_tests::record::{Metered, Scratch};
use rpramfs_tests::specimen::{specimens, Specimen};

/// Bytes of one store in an input.
pub const STORE: usize = 14;
const MENDED: u16 = 0x8000;
/// Accesses of one pass; those without damage take a hundredth of it.
const BUDGET: u64 = 20_000_000;

/// What is damaged, made once.
pub struct Bench {
    specimens: Vec<Specimen>,
    scratches: Vec<Scratch>,
}

/// One store.
#[derive(Clone, Copy, Debug)]
pub struct Blow {
    /// Number of the structure.
    pub block: u16,
    /// Are checksums mended?
    pub mended: bool,
    /// Where in it.
    pub at: u16,
    /// How many bytes.
    pub len: u8,
    /// 0 store, 1 add, 2 exclusive or, 3 another structure in its place.
    pub how: u8,
    /// What.
    pub bytes: [u8; 8],
}

impl Blow {
    /// As it stands in an input.
    #[must_use]
    pub fn encode(&self) -> [u8; STORE] {
        let mut b = [0; STORE];
        let block = self.block | if self.mended { MENDED } else { 0 };
        b[..2].copy_from_slice(&block.to_le_bytes());
        b[2..4].copy_from_slice(&self.at.to_le_bytes());
        b[4] = self.len;
        b[5] = self.how;
        b[6..].copy_from_slice(&self.bytes);
        b
    }

    fn decode(b: &[u8; STORE]) -> Self {
        let block = u16::from_le_bytes([b[0], b[1]]);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&b[6..]);
        Blow {
            block: block & !MENDED,
            mended: block & MENDED != 0,
            at: u16::from_le_bytes([b[2], b[3]]),
            len: b[4] % 9,
            how: b[5] % 4,
            bytes,
        }
    }
}

impl Default for Bench {
    fn default() -> Self {
        let specimens = specimens();
        let scratches = specimens.iter().map(|s| Scratch::new(&s.image)).collect();
        Bench {
            specimens,
            scratches,
        }
    }
}

impl Bench {
    /// What there is to be damaged.
    #[must_use]
    pub fn specimens(&self) -> &[Specimen] {
        &self.specimens
    }

    fn prepare(&self, which: usize, input: &[u8]) -> &Scratch {
        let (s, scratch) = (&self.specimens[which], &self.scratches[which]);
        scratch.reset(&s.image.mem);
        let all = &s.anatomy.blocks;
        for b in input.chunks_exact(STORE).take(64) {
            let blow = Blow::decode(b.try_into().expect("so many bytes"));
            let block = &all[usize::from(blow.block) % all.len()];
            let at = usize::from(blow.at) % block.len;
            let len = usize::from(blow.len).min(block.len - at);
            let off = block.off + at as u64;
            let mut bytes = vec![0; len];
            scratch.read(off, &mut bytes).expect("inside");
            match blow.how {
                0 => bytes.copy_from_slice(&blow.bytes[..len]),
                1 => {
                    let mut word = [0; 8];
                    word[..len].copy_from_slice(&bytes);
                    let sum = u64::from_le_bytes(word).wrapping_add(u64::from_le_bytes(blow.bytes));
                    bytes.copy_from_slice(&sum.to_le_bytes()[..len]);
                }
                2 => bytes.iter_mut().zip(blow.bytes).for_each(|(b, x)| *b ^= x),
                _ => {
                    let n = usize::from(u16::from_le_bytes([blow.bytes[0], blow.bytes[1]]));
                    let other = &all[n % all.len()];
                    let mut b = vec![0; block.len.min(other.len)];
                    s.image.mem.read(other.off, &mut b).expect("inside");
                    scratch.write(block.off, &b).expect("inside");
                    bytes.clear();
                }
            }
            scratch.write(off, &bytes).expect("inside");
            if blow.mended {
                s.anatomy.mend(scratch, block);
            }
        }
        scratch
    }

    /// Damages an image; mounts, reads, writes and repairs it; then repairs it as it was.
    ///
    /// # Panics
    /// When anything about that is not in order: this is what the fuzzer looks for.
    pub fn image(&self, input: &[u8]) {
        let Some((&which, input)) = input.split_first() else {
            return;
        };
        let which = usize::from(which) % self.specimens.len();
        let s = &self.specimens[which];
        let metered = Metered::new(self.prepare(which, input), BUDGET);
        let host = TestHost::new(4);
        // Whoever mends checksums can make it say anything: only that it ends is asked.
        let written = |ino: Ino| ino % 4 == u64::from(input.first().copied().unwrap_or(0)) % 4;
        let _ = tour(&metered, &host, &s.tree, &|_| false, &written);
        assert!(!metered.exceeded(), "work without bounds");
        for pass in ["written, then repaired", "repaired"] {
            metered.refill(BUDGET);
            if let Err(e) = repaired(&metered, &host.reborn(), true) {
                panic!("{pass}: {e}");
            }
            assert!(!metered.exceeded(), "{pass}: work without bounds");
            self.prepare(which, input);
        }
    }
}
