// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Tells a person who is watching what has happened, and when.

use std::io::Write;
use std::time::Instant;

pub struct Timeline {
    start: Instant,
}

impl Timeline {
    pub fn start() -> Timeline {
        Timeline {
            start: Instant::now(),
        }
    }

    pub fn say(&self, text: impl AsRef<str>) {
        println!(
            "[{:7.2} s] {}",
            self.start.elapsed().as_secs_f64(),
            text.as_ref()
        );
        let _ = std::io::stdout().flush();
    }
}
