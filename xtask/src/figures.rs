// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Suites that count what they have shown: run, and the sums of their figures written down.

use crate::host::{self, cargo, show};
use anyhow::{ensure, Context, Result};
use serde_json::{Map, Value};
use std::fs;

/// Runs a suite of `rpramfs-tests`, whose tests append lines of figures to a log, and writes the
/// sums to `target/test/SUITE.json`.
pub fn collect(suite: &str, full: bool) -> Result<()> {
    let dir = host::root().join("target/test");
    fs::create_dir_all(&dir)?;
    let log = dir.join(format!("{suite}.log"));
    let figures = dir.join(format!("{suite}.json"));
    let _ = fs::remove_file(&log);
    let mut test = cargo();
    test.args(["test", "-q", "-p", "rpramfs-tests", "--test", suite])
        .env("RPRAMFS_FIGURES", &log);
    if full {
        test.env("RPRAMFS_FULL", "1");
    }
    let passed = show(&mut test);
    let text = fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let mut sums = Map::new();
    for line in text.lines() {
        let line: Map<String, Value> = serde_json::from_str(line)?;
        for (name, value) in line {
            if let Some(n) = value.as_u64() {
                let sum = sums.get(&name).and_then(Value::as_u64).unwrap_or(0);
                sums.insert(name, Value::from(sum + n));
            }
        }
    }
    ensure!(!sums.is_empty(), "{suite} counted nothing");
    let sums = serde_json::to_string_pretty(&Value::Object(sums))?;
    fs::write(&figures, format!("{sums}\n"))?;
    println!("{sums}\nfigures: {}", figures.display());
    passed
}
