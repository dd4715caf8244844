// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the kernel module says in the kernel's log: mount(2) itself gives no more than a number.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// Begins every line of the module's.
const PREFIX: &str = "rpramfs: ";

/// The log from a moment on.
pub struct Log(Option<File>);

impl Log {
    /// From now on. A log that cannot be read is an empty one.
    pub fn from_now() -> Self {
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .and_then(|mut log| log.seek(SeekFrom::End(0)).map(|_| log));
        match log {
            Ok(log) => Log(Some(log)),
            Err(e) => {
                log::info!("/dev/kmsg: {e}");
                Log(None)
            }
        }
    }

    /// What the module has complained of since, on behalf of this process where the log tells.
    pub fn complaints(self) -> Vec<String> {
        let thread = nix::unistd::gettid().as_raw();
        let mut found = Vec::new();
        let Some(mut log) = self.0 else {
            return found;
        };
        // One read is one record, of 8 KiB at most.
        let mut record = [0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(0) => return found,
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]);
                    found.extend(complaint(&text, thread).map(str::to_owned));
                }
                // EPIPE: records were overwritten before they were read; the next one is there.
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => return found,
            }
        }
    }
}

/// The message of a record (`priority,sequence,time,flags[,caller=T12];message`) if it is a
/// warning of the module's, or worse, and not made by another thread.
fn complaint(record: &str, thread: i32) -> Option<&str> {
    let (head, message) = record.split_once(';')?;
    let message = message.lines().next()?.strip_prefix(PREFIX)?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    // Facility 0 is the kernel; anybody can write what looks like it under another.
    if priority > 4 {
        return None;
    }
    let caller = fields.find_map(|field| field.strip_prefix("caller=T"));
    (caller.is_none_or(|caller| caller == thread.to_string())).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_modules_own_complaints_count() {
        let told = |record| complaint(record, 7);
        let words = Some("0x100000000+0x1000: no RP-RAMFS here");
        assert_eq!(
            told("3,812,9000,-;rpramfs: 0x100000000+0x1000: no RP-RAMFS here\n SUBSYSTEM=x\n"),
            words
        );
        assert_eq!(
            told("3,812,9000,-,caller=T7;rpramfs: 0x100000000+0x1000: no RP-RAMFS here\n"),
            words
        );
        for other in [
            "3,812,9000,-,caller=T8;rpramfs: of another mount\n",
            "6,812,9000,-;rpramfs: layout version 1\n",
            "27,812,9000,-;rpramfs: written by a process\n",
            "28,812,9000,-;rpramfs[812]: a daemon\n",
            "3,812,9000,-;ext4: other\n",
            "no record",
        ] {
            assert_eq!(told(other), None, "{other}");
        }
    }
}
