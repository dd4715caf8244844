// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `kup`: updates the kernel under running applications.

#![deny(unsafe_code)]

mod args;
mod check;
mod commands;

use args::Line;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let line = Line::parse();
    match commands::run(&line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("kup: {e:#}");
            ExitCode::FAILURE
        }
    }
}
