// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Messages: to stderr while somebody looks, to the kernel's log afterwards.

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};

enum Target {
    Stderr,
    /// `/dev/kmsg`: there in every initramfs, and what the console and pstore show after a panic.
    Kmsg(File),
    Nowhere,
}

struct Logger(Mutex<Target>);

static LOGGER: Logger = Logger(Mutex::new(Target::Stderr));

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // A message that cannot be written is lost; there is no one left to tell.
        let _ = match &mut *self.0.lock() {
            Target::Stderr => {
                let mut err = io::stderr().lock();
                writeln!(err, "mount.rpramfs: {}", record.args())
            }
            Target::Kmsg(file) => {
                // Priorities of syslog(3), facility daemon (3); one write is one record.
                let priority = match record.level() {
                    Level::Error => 3,
                    Level::Warn => 4,
                    Level::Info => 6,
                    Level::Debug | Level::Trace => 7,
                };
                let pid = std::process::id();
                let line = format!("<{}>rpramfs[{pid}]: {}", 3 << 3 | priority, record.args());
                // The kernel refuses records beyond 1 KiB less its own prefix.
                let mut end = line.len().min(900);
                while !line.is_char_boundary(end) {
                    end -= 1;
                }
                file.write_all(&line.as_bytes()[..end])
            }
            Target::Nowhere => Ok(()),
        };
    }

    fn flush(&self) {}
}

/// Starts with stderr.
pub fn start(verbose: bool) {
    // Set once by main(); a second call changes nothing but the level.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(if verbose {
        LevelFilter::Info
    } else {
        LevelFilter::Warn
    });
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("{info}");
        standard(info);
    }));
}

/// Goes on in the kernel's log: stderr is about to be closed.
pub fn detach() {
    let target = match OpenOptions::new().write(true).open("/dev/kmsg") {
        Ok(file) => Target::Kmsg(file),
        Err(_) => Target::Nowhere,
    };
    *LOGGER.0.lock() = target;
}
