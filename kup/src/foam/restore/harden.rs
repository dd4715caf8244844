// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What keeps a process alive that others depend on.
#![allow(unsafe_code)]

use std::fs;

use anyhow::{Context, Result};
use nix::sys::signal::{signal, SigHandler, Signal};

/// Makes this process hard to kill by accident, for a supervisor to do first: the out-of-memory killer
/// passes it by, and the signals of terminals and of shutdown are ignored. (An init system that kills
/// what is left spares a process whose `argv[0]` begins with `@`; that is for the caller to arrange.)
///
/// Daemons inherit it all. While a restore drains, the restored processes cannot go on without it.
///
/// # Errors
/// When `/proc` does not let us; root may always.
pub fn hard_to_kill() -> Result<()> {
    for which in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        // In a service's control group it gets what is meant for all of the service (`systemctl kill`, a watchdog).
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGABRT,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGPWR,
        Signal::SIGXCPU,
    ] {
        // SAFETY: to ignore a signal runs no code.
        unsafe { signal(which, SigHandler::SigIgn) }.with_context(|| format!("ignore {which}"))?;
    }
    fs::write("/proc/self/oom_score_adj", "-1000").context("write /proc/self/oom_score_adj")
}
