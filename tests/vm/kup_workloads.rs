// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! All of the applications at once, through five updates in a row, back and forth between two kernels.

use super::services::{App, System, ALL};
use crate::lab::Lab;
use anyhow::{Context, Result};

pub fn run(lab: &Lab) -> Result<()> {
    let mut system = System::start(lab, "7.x-1", ALL)?;
    for (number, kernel) in ["7.x", "7.x-1", "7.x", "7.x-1", "7.x"].iter().enumerate() {
        let number = number + 1;
        println!("━━ update {number}");
        system
            .update(kernel)
            .with_context(|| format!("update {number}"))?;
    }
    system.end().map(drop)
}

/// One of them through one update.
pub fn one(lab: &Lab, app: &App, from: &str, to: &str) -> Result<()> {
    let mut system = System::start(lab, from, &[app])?;
    system.update(to)?;
    system.end().map(drop)
}
