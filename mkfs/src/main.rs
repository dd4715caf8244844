// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `mkfs.rpramfs`: formats a region.

#![deny(unsafe_code)]

mod args;
mod make;
mod report;
mod sigbus;

use args::Args;
use clap::error::ErrorKind;
use clap::Parser;
use host::Program;
use std::io::Write;
use std::process::ExitCode;

/// Exit status of wrong usage, see mkfs(8).
const USAGE: u8 = 16;
/// Exit status of an operational error.
const FAILED: u8 = 8;

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
    sigbus::install();
    let report = match make::run(&args) {
        Ok(report) => report,
        Err(e) => {
            eprintln!("mkfs.rpramfs: {e}");
            return ExitCode::from(e.exit_code(Program::Mkfs));
        }
    };
    if args.quiet {
        return ExitCode::SUCCESS;
    }
    let text = if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => text,
            Err(e) => {
                eprintln!("mkfs.rpramfs: cannot write JSON: {e}");
                return ExitCode::from(FAILED);
            }
        }
    } else {
        report.to_string()
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        // The reader went away; the filesystem is made all the same.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mkfs.rpramfs: the filesystem is made, but cannot be reported: {e}");
            ExitCode::from(FAILED)
        }
    }
}
