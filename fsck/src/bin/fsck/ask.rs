// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Who decides about a repair.

use fs_core::check::{Decision, Finding};
use std::io::{self, BufRead, Write};

/// How findings are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No to everything.
    No,
    /// Yes to everything.
    Yes,
    /// Yes to what loses nothing; from the first other one on, no.
    Preen,
    /// The person at the terminal is asked.
    Ask,
}

impl Answer {
    /// Decides about a finding.
    pub fn decide(&mut self, finding: &Finding) -> Decision {
        let Some(repair) = &finding.repair else {
            return Decision::Leave;
        };
        match self {
            Answer::No => Decision::Leave,
            Answer::Yes => Decision::Repair,
            Answer::Preen if finding.harmless => Decision::Repair,
            Answer::Preen => {
                // What looks harmless later may only be a consequence of what is left here.
                *self = Answer::No;
                Decision::Leave
            }
            Answer::Ask => self.ask(repair),
        }
    }

    fn ask(&mut self, repair: &str) -> Decision {
        loop {
            print!("    repair ({repair})? [y]es, [n]o, yes to [a]ll, [q]uit: ");
            let _ = io::stdout().flush();
            let mut line = String::new();
            match io::stdin().lock().read_line(&mut line) {
                Ok(0) | Err(_) => return Decision::Stop,
                Ok(_) => {}
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" => return Decision::Repair,
                "n" | "no" => return Decision::Leave,
                "a" | "all" => {
                    *self = Answer::Yes;
                    return Decision::Repair;
                }
                "q" | "quit" => return Decision::Stop,
                _ => {}
            }
        }
    }
}
