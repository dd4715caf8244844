// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `fsck.rpramfs`: checks a region, and repairs it.

#![deny(unsafe_code)]

mod args;
mod ask;
mod report;
mod run;

use args::Args;
use clap::error::ErrorKind;
use clap::Parser;
use host::Program;
use std::process::ExitCode;

/// Exit status of wrong usage, see fsck(8).
const USAGE: u8 = 16;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nowhere to print to: nobody will miss it.
            let _ = e.print();
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    rpramfs_fsck::signals::install();
    match run::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("fsck.rpramfs: {e}");
            ExitCode::from(e.exit_code(Program::Fsck))
        }
    }
}
