// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask bench`: each measure is a ratio of two things measured in turns in the same run.
//!
//! A new group of measures is a function and a line in [`GROUPS`].

mod criu;
mod kmod;
mod others;
mod program;
mod stats;
mod update;

use crate::host;
use anyhow::{bail, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::fs;

pub use stats::Pairs;

/// Each group is written to `target/bench/NAME.json`.
const GROUPS: &[Group] = &[
    Group {
        name: "core",
        about: "the core against memcpy; mkfs and mount of any size and content; ageing",
        run: program::core,
    },
    Group {
        name: "fuse",
        about: "1 MiB reads and writes, mount against tmpfs and against an empty FUSE loop",
        run: program::fuse,
    },
    Group {
        name: "criu",
        about: "checkpoint and restore of a 256 MiB process, mount against tmpfs",
        run: criu::run,
    },
    Group {
        name: "kmod",
        about: "the kernel module against tmpfs, ext4-DAX and xfs-DAX in one guest",
        run: kmod::run,
    },
    Group {
        name: "update",
        about: "how long applications stand still: kup against plain CRIU, and a whole update",
        run: update::run,
    },
    Group {
        name: "native",
        about: "stops and restores by kup against plain CRIU on this machine itself, into tmpfs",
        run: update::native,
    },
    Group {
        name: "phases",
        about: "what a whole update of redis and memcached consists of, by how much they hold",
        run: update::phases,
    },
];

struct Group {
    name: &'static str,
    about: &'static str,
    run: fn(&Settings) -> Result<Vec<Measure>>,
}

/// One line of the results.
#[derive(Debug, Deserialize, Serialize)]
pub struct Measure {
    pub measure: String,
    /// The median of ours.
    pub value: f64,
    pub unit: String,
    /// The median of what we are compared with.
    pub baseline: f64,
    /// Ours ÷ baseline: the median over the rounds, each of which measured both.
    pub ratio: f64,
    /// How far the rounds' ratios lie apart, ÷ their median: all of them (`criu`), or the middle half.
    pub spread: f64,
}

pub struct Settings {
    /// Each measure is taken that often.
    pub rounds: usize,
    /// All rounds of ageing.
    pub full: bool,
}

#[derive(Args)]
pub struct Bench {
    /// Only these groups
    names: Vec<String>,
    /// Rounds of each measure
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// 100 rounds of ageing instead of 20
    #[arg(long)]
    full: bool,
    /// List the groups and do nothing
    #[arg(long)]
    list: bool,
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        if self.list {
            GROUPS
                .iter()
                .for_each(|group| println!("{:10} {}", group.name, group.about));
            return Ok(());
        }
        for name in &self.names {
            if !GROUPS.iter().any(|group| group.name == name) {
                bail!("no group {name}; see `cargo xtask bench --list`");
            }
        }
        let settings = Settings {
            rounds: self.rounds.max(1),
            full: self.full,
        };
        let dir = host::target().join("bench");
        fs::create_dir_all(&dir)?;
        let chosen = |group: &&Group| {
            self.names.is_empty() || self.names.iter().any(|name| name == group.name)
        };
        let mut all = Vec::new();
        for group in GROUPS.iter().filter(chosen) {
            println!("━━ {}: {}", group.name, group.about);
            let measures = (group.run)(&settings)?;
            let path = dir.join(format!("{}.json", group.name));
            fs::write(&path, serde_json::to_string_pretty(&measures)? + "\n")?;
            all.extend(measures);
        }
        table(&all);
        println!("\nresults: {}/*.json", dir.display());
        Ok(())
    }
}

fn table(measures: &[Measure]) {
    println!(
        "\n{:36} {:>12} {:>12} {:5} {:>7} {:>7}",
        "measure", "ours", "baseline", "unit", "ratio", "spread"
    );
    for m in measures {
        println!(
            "{:36} {:>12.4} {:>12.4} {:5} {:>7.3} {:>7.3}",
            m.measure, m.value, m.baseline, m.unit, m.ratio, m.spread
        );
    }
}
