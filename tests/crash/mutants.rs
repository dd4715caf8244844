// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Is the replay itself any good? Faults are put into the core's write path, one at a time, and
//! each must be caught.

use crate::single;
use rpramfs_tests::figures;
use rpramfs_tests::mutant::{hunt, survey, Outcome};

/// Mutants that change nothing anybody can tell: file, beginning of the line, why.
const EQUIVALENT: &[(&str, &str, &str)] = &[(
    "file.rs",
    "of_file(self.region.zero(base + skip + n",
    "EQUIVALENT where a write ends behind the old end: what is in the last page behind the file's \
     size is not part of the file, and becomes zeros when the file grows",
)];

/// For those who collect figures, as the tests of crash states do.
fn log(outcome: &Outcome, alive: usize) {
    figures::append(&serde_json::json!({
        "test": "crash: mutants", "mutants": outcome.mutants, "mutants_caught": outcome.caught,
        "mutants_equivalent": outcome.alive.len() - alive,
    }));
}

#[test]
fn crash_mutants() {
    let cases = single::all();
    let mutants = survey(&cases);
    let outcome = hunt(&cases, &mutants);
    println!(
        "crash: {} mutants of the write path, {} caught",
        outcome.mutants, outcome.caught
    );
    let mut alive = 0;
    for m in &outcome.alive {
        let (file, text) = m.source();
        let why = EQUIVALENT
            .iter()
            .find(|(f, t, _)| *f == file && text.starts_with(t))
            .map(|(.., why)| *why);
        alive += usize::from(why.is_none());
        println!("{}: {m}", why.unwrap_or("ALIVE"));
    }
    log(&outcome, alive);
    assert!(outcome.mutants > 120, "too few: are places told apart?");
    assert_eq!(alive, 0, "see above");
    assert!(
        outcome.alive.len() * 50 <= outcome.mutants,
        "more than 2 % are said to be equivalent"
    );
}
