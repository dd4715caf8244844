// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A message instead of a silent death when a page of the region cannot be had: a sparse file on a
//! full filesystem, a file that was cut short, bad memory.

#![allow(unsafe_code)]

use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

const MESSAGE: &[u8] = b"<27>rpramfs: a page of the region could not be read or written (SIGBUS): \
a sparse file on a full filesystem, a file that was cut short, or bad memory. The mount is dead, the \
filesystem as whole as the memory behind it.\n";

extern "C" fn on_sigbus(_: libc::c_int) {
    // SAFETY: open(2), write(2) and _exit(2) are async-signal-safe, see signal-safety(7), and path
    // and message are constants. Nothing is looked at but the descriptor. 2 is a system error.
    unsafe {
        let log = libc::open(c"/dev/kmsg".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        libc::write(log, MESSAGE.as_ptr().cast(), MESSAGE.len());
        // Behind the priority, for whoever looks at stderr.
        libc::write(
            libc::STDERR_FILENO,
            MESSAGE.as_ptr().add(4).cast(),
            MESSAGE.len() - 4,
        );
        libc::_exit(2);
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
