// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Signals: a message instead of a silent death when a page of the region cannot be had, and an
//! orderly end on SIGINT and SIGTERM.

#![allow(unsafe_code)]

use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

const MESSAGE: &[u8] = b"a page of the region could not be read or written (SIGBUS)\n  \
a sparse file on a full filesystem, a file that was cut short, or bad memory\n";

extern "C" fn on_sigbus(_: libc::c_int) {
    // SAFETY: write(2) and _exit(2) are async-signal-safe, see signal-safety(7), and the buffer is
    // a constant. 8 is fsck's status of an operational error.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(8);
    }
}

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Installs the handlers. What cannot be installed (a seccomp filter may forbid it) acts as usual.
pub fn install() {
    let install = |signal, handler| {
        let action = SigAction::new(
            SigHandler::Handler(handler),
            SaFlags::SA_RESETHAND,
            SigSet::empty(),
        );
        // SAFETY: the handlers call async-signal-safe functions only: write, _exit, and a store to
        // a lock-free atomic.
        let _ = unsafe { sigaction(signal, &action) };
    };
    install(Signal::SIGBUS, on_sigbus);
    install(Signal::SIGINT, on_stop as extern "C" fn(libc::c_int));
    install(Signal::SIGTERM, on_stop);
}

/// Shall we end? The second signal ends us at once.
#[must_use]
pub fn stop() -> bool {
    STOP.load(Ordering::Relaxed)
}
