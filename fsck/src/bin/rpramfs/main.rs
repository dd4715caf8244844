// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs`: looks into a region, mounted or not, and shows any structure of it.

#![deny(unsafe_code)]

mod args;
mod control;
mod dump;
mod files;
mod find;
mod render;
mod stat;
mod tune;

use args::{Args, Command};
use clap::Parser;
use host::{Access, Program, Result, UserHost};
use rpramfs_fsck::region::open;
use rpramfs_fsck::signals;
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    signals::install();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("rpramfs: {e}");
            ExitCode::from(e.exit_code(Program::Fsck))
        }
    }
}

/// `Ok(false)`: what was asked for is not so.
fn run(args: &Args) -> Result<bool> {
    let host = UserHost::new();
    let value = match &args.command {
        Command::Stat { spec } => stat::stat(&open(spec, Access::Inspect)?, &host)?,
        Command::Dump { spec, what } => dump::dump(&open(spec, Access::Inspect)?, &host, what)?,
        Command::Ls { spec, path } => {
            let value = files::list(&open(spec, Access::Inspect)?, &host, path)?;
            if !args.json {
                return print(&files::as_text(&value)).map(|()| true);
            }
            value
        }
        Command::Cat { spec, path } => {
            files::cat(&open(spec, Access::Inspect)?, &host, path)?;
            return Ok(true);
        }
        Command::FindOwner { spec, offset } => {
            find::find(&open(spec, Access::Inspect)?, &host, offset)?
        }
        Command::Tune { spec, label, uuid } => {
            tune::tune(&open(spec, Access::ReadWrite)?, &host, *label, *uuid)?
        }
        Command::Seal { paths } => control::seal(paths)?,
        Command::Unseal { paths } => control::unseal(paths)?,
        Command::Verify { paths } => {
            let (value, sound) = control::verify(paths)?;
            show(&value, args.json)?;
            return Ok(sound);
        }
    };
    show(&value, args.json)?;
    Ok(true)
}

fn show(value: &Value, json: bool) -> Result<()> {
    if json {
        print(&format!("{value:#}\n"))
    } else {
        print(&render::text(value))
    }
}

/// Prints; a reader that went away is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(host::Error::io("cannot write to standard output", &e))
        }
        _ => Ok(()),
    }
}
