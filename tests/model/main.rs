// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Random sequences of operations, each answer and the whole tree compared with a reference.
//!
//! `RPRAMFS_CASES` sets the number of sequences of each test (the daily number is small),
//! `RPRAMFS_STEPS` the greatest length of one. Seeds that failed are in
//! `proptest-regressions/`, and are tried first.

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError};
use rpramfs_tests::env::number;
use rpramfs_tests::host::Rng;
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::steps::{self, Lean, Run, Step};

const MIB: u64 = 1 << 20;

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (
        any::<u8>(),
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        any::<u64>(),
    )
        .prop_map(|(kind, a, b, c, d)| Step { kind, a, b, c, d });
    prop::collection::vec(step, 1..most)
}

fn sequence(steps: &[Step], lean: Lean, bytes: u64) -> Result<(), TestCaseError> {
    steps::sequence(steps, lean, bytes).map_err(TestCaseError::fail)
}

fn config(daily: u32) -> ProptestConfig {
    ProptestConfig {
        cases: number("RPRAMFS_CASES", daily),
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/model/proptest-regressions/main.txt"
        )))),
        ..ProptestConfig::default()
    }
}

fn most(daily: usize) -> usize {
    number("RPRAMFS_STEPS", daily)
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn model_everything(steps in steps(most(200))) {
        sequence(&steps, Lean::Everything, 16 * MIB)?;
    }

    #[test]
    fn model_names(steps in steps(most(300))) {
        sequence(&steps, Lean::Names, 4 * MIB)?;
    }

    #[test]
    fn model_contents(steps in steps(most(200))) {
        sequence(&steps, Lean::Contents, 16 * MIB)?;
    }

    #[test]
    fn model_attributes(steps in steps(most(150))) {
        sequence(&steps, Lean::Attributes, 8 * MIB)?;
    }

    /// The least region there is: out of space most of the time.
    #[test]
    fn model_no_space(steps in steps(most(200))) {
        sequence(&steps, Lean::Everything, MIB)?;
    }

    #[test]
    fn model_contents_no_space(steps in steps(most(200))) {
        sequence(&steps, Lean::Contents, 3 * MIB / 2)?;
    }
}

/// One long life rather than many short ones.
#[test]
fn model_long_life() {
    let n = number("RPRAMFS_LIFE", 6000);
    for (seed, lean, bytes) in [
        (1, Lean::Everything, 8 * MIB),
        (2, Lean::Names, 16 * MIB),
        (3, Lean::Contents, 32 * MIB),
    ] {
        let mut rng = Rng(seed);
        let mem = MemRegion::new(bytes);
        let mut run = Run::new(&mem);
        for i in 0..n {
            let word = rng.word();
            let step = Step {
                kind: word as u8,
                a: (word >> 8) as u16,
                b: (word >> 24) as u16,
                c: rng.word() as u32,
                d: rng.word(),
            };
            run.step(&step, lean)
                .unwrap_or_else(|e| panic!("seed {seed}, step {i}: {e}"));
            if i % 256 == 255 {
                run.settled().expect("reclaim");
                run.compare()
                    .unwrap_or_else(|e| panic!("seed {seed}, at step {i}: {e}"));
            }
        }
        run.finish()
            .unwrap_or_else(|e| panic!("seed {seed}, at the end: {e}"));
    }
}
