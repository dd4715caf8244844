// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Into the background, when the mount is there and not before.
//!
//! The daemon is this program, started anew with `@` as first character of argv[0]: systemd takes
//! it for a storage daemon of the root filesystem and kills it neither at switch_root nor first of
//! all at shutdown. Its stdout is a pipe on which it reports; the caller waits for that.

use crate::options::Options;
use crate::{logging, session};
use host::{Error, Kind, Program, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// First argument of the daemon.
pub const NAME: &str = "@mount.rpramfs";
/// Set in the daemon's environment.
const VARIABLE: &str = "RPRAMFS_DAEMON";
/// What the daemon reports on success.
const READY: &str = "ready\n";

/// Is this process meant to be the daemon?
#[must_use]
pub fn is_daemon() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
        && std::env::var_os(VARIABLE).is_some()
}

/// Starts the daemon and waits until it has mounted, or has failed and said why. Returns the exit
/// code.
pub fn start() -> Result<u8> {
    let failed = |e| Error::io("cannot start the daemon", &e);
    let itself = Path::new("/proc/self/exe");
    let program = if itself.exists() {
        itself.to_path_buf()
    } else {
        std::env::current_exe().map_err(failed)?
    };
    let mut child = Command::new(program)
        .arg0(NAME)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .stdin(nowhere().map_err(failed)?)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut report = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut report).map_err(failed)?;
    }
    if report == READY {
        return Ok(0);
    }
    // It ends by itself: with an exit code, having said why, or by a signal.
    let status = child.wait().map_err(failed)?;
    match status.code() {
        Some(code) if code != 0 => Ok(u8::try_from(code).unwrap_or(32)),
        _ => Err(Error::new(
            Kind::Refused,
            match status.signal() {
                Some(signal) => format!("the daemon was ended by signal {signal}"),
                None => "the daemon ended before the mount was ready".into(),
            },
        )),
    }
}

/// The daemon: mounts, reports, serves.
pub fn run(options: &Options) -> u8 {
    std::env::remove_var(VARIABLE);
    close_inherited();
    // Fails only for a group leader, which a fresh child is not.
    let _ = nix::unistd::setsid();
    let failed = session::run(options, || {
        if let Err(e) = detach() {
            log::warn!("not wholly in the background: {e}");
        }
    });
    match failed {
        Err(e) => {
            log::error!("{e}");
            e.exit_code(Program::Mount)
        }
        Ok(never) => match never {},
    }
}

/// Reports success and lets go of everything the caller might wait for.
fn detach() -> std::io::Result<()> {
    protect();
    logging::detach();
    std::env::set_current_dir("/")?;
    let mut stdout = std::io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let null = nowhere()?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    // Last: this closes the pipe.
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}

/// Closes what the caller had open: a pipe that the daemon held would never end for its reader.
/// Nothing of our own is open yet but stdin, stdout and stderr.
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = open
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // The one that listed them is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Something to have for stdin, stdout and stderr: an early initramfs may have no `/dev/null`. The
/// root directory can be neither read nor written, and is held by the daemon in any case.
fn nowhere() -> std::io::Result<File> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.or_else(|_| File::open("/"))
}

/// A daemon killed for want of memory would take the mount with it.
fn protect() {
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        log::info!("/proc/self/oom_score_adj: {e}");
    }
}
