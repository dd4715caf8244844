// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The command line.

use clap::{ArgAction, Parser};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Where SPEC is one of
  0x100000000+1G     physical memory: address and size (also 4G+1G)
  /dev/dax0.0        a device-dax device
  /dev/pmem0         a persistent memory device
  FILE               a regular file
  LABEL=x, UUID=x    a region found by its label or UUID

Without -n, -p or -y it asks before each repair; the answer a stands for yes to all.

Examples
  Is it sound? Nothing is written:
      fsck.rpramfs -n LABEL=state
  Do the checkpoint images still hold what was sealed?
      fsck.rpramfs -n --data LABEL=state
  Repair whatever can be:
      fsck.rpramfs -y 4G+1G

There is no dirty flag: whatever instant the machine stopped at, a mount carries on from there. So
a check is never needed after a crash, only after damage (stray writes, bad memory, bugs). -p, which
is what boot scripts use, therefore looks at superblocks, journal and system structures in constant
time, and goes through everything only if one of them is bad, or with -f.

Exit status is the sum of: 0 sound, 1 repaired, 4 errors are left, 8 could not run, 16 wrong usage,
32 interrupted.";

/// Checks an RP-RAMFS, and repairs it.
#[derive(Debug, Parser)]
#[command(
    name = "fsck.rpramfs",
    bin_name = "fsck.rpramfs",
    version,
    after_help = EXAMPLES,
    disable_version_flag = true,
    args_override_self = true
)]
pub struct Args {
    /// The region to check
    pub spec: OsString,

    /// Only look: answer no to everything, write nothing
    #[arg(short = 'n', long = "dry-run", conflicts_with_all = ["preen", "yes"])]
    pub dry_run: bool,

    /// Repair without questions what can be repaired without loss (-a is the same); quick, unless -f
    #[arg(short = 'p', short_alias = 'a', long, conflicts_with = "yes")]
    pub preen: bool,

    /// Answer yes to everything
    #[arg(short = 'y', long)]
    pub yes: bool,

    /// Go through everything, also with -p
    #[arg(short, long)]
    pub force: bool,

    /// Also read the data of sealed files and compare it with their seals
    #[arg(long)]
    pub data: bool,

    /// Show progress: 0 for a bar, else the number of a file descriptor that gets
    /// `pass done total SPEC` lines
    #[arg(short = 'C', value_name = "FD", allow_negative_numbers = true)]
    pub progress: Option<i32>,

    /// Tell more
    #[arg(short, long)]
    pub verbose: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_fsck_passes_on() {
        let parse = |args: &[&str]| Args::try_parse_from([&["fsck.rpramfs"], args].concat());
        let args = parse(&["-a", "-C0", "x"]).expect("boot");
        assert!(args.preen && args.progress == Some(0));
        let args = parse(&["-a", "-C", "5", "x"]).expect("systemd");
        assert_eq!(args.progress, Some(5));
        assert!(parse(&["-p", "-a", "-f", "-f", "x"]).expect("twice").preen);
        assert!(parse(&["-n", "-y", "x"]).is_err());
        assert!(parse(&["-p", "-y", "x"]).is_err());
        assert!(parse(&[]).is_err());
    }
}
