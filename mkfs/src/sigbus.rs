// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A message instead of a silent death when a page of the region cannot be had.

#![allow(unsafe_code)]

use nix::libc;
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

const MESSAGE: &[u8] =
    b"mkfs.rpramfs: a page of the region could not be read or written (SIGBUS)\n  \
a sparse file on a full filesystem, a file that was cut short, or bad memory\n";

extern "C" fn on_sigbus(_: libc::c_int) {
    // SAFETY: write(2) and _exit(2) are async-signal-safe, see signal-safety(7), and the buffer is
    // a constant. 8 is mkfs's status of an operational error.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(8);
    }
}

/// Installs the handler. Without it (a seccomp filter may forbid it) SIGBUS kills as usual.
pub fn install() {
    let action = SigAction::new(
        SigHandler::Handler(on_sigbus),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler calls async-signal-safe functions only and does not return.
    let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
}
