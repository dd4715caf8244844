// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The `memmap=` reservations on the kernel's command line.

use crate::{size, PhysRange};

/// How a `memmap=` option marks its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `SIZE$ADDR`: reserved, no driver takes it.
    Reserved,
    /// `SIZE!ADDR`: persistent memory, taken by the pmem driver.
    Persistent,
}

/// All `$` and `!` reservations of a command line (the text of `/proc/cmdline`), in order. An
/// option that cannot be read is left out; what follows ` -- ` belongs to init.
#[must_use]
pub fn reservations(cmdline: &str) -> Vec<(PhysRange, Mark)> {
    let mut found = Vec::new();
    for word in cmdline.split_ascii_whitespace() {
        if word == "--" {
            break;
        }
        let Some(list) = word.trim_matches('"').strip_prefix("memmap=") else {
            continue;
        };
        for item in list.split(',') {
            let (mark, split) = match (item.split_once('$'), item.split_once('!')) {
                (Some(split), None) => (Mark::Reserved, split),
                (None, Some(split)) => (Mark::Persistent, split),
                _ => continue,
            };
            let (Ok(size), Ok(start)) = (size::parse(split.0), size::parse(split.1)) else {
                continue;
            };
            if let Ok(range) = PhysRange::new(start, size) {
                found.push((range, mark));
            }
        }
    }
    found
}

/// Is this the kernel that looks after a panic? It was given `elfcorehdr=` by kexec.
#[must_use]
pub fn is_crash_kernel(cmdline: &str) -> bool {
    cmdline
        .split_ascii_whitespace()
        .take_while(|word| *word != "--")
        .any(|word| word.starts_with("elfcorehdr="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_them_all() {
        let text = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 memmap=1G$0x100000000 \
                    memmap=512M!8G,1G$16G memmap=64M memmap=1G@2G memmap=x$y quiet -- memmap=1G$4G\n";
        let found = reservations(text);
        let expect = |start: u64, size: u64| PhysRange { start, size };
        assert_eq!(
            found,
            [
                (expect(1 << 32, 1 << 30), Mark::Reserved),
                (expect(8 << 30, 512 << 20), Mark::Persistent),
                (expect(16 << 30, 1 << 30), Mark::Reserved),
            ]
        );
    }

    #[test]
    fn crash_kernels_are_known() {
        assert!(is_crash_kernel("quiet elfcorehdr=0x2d000000"));
        assert!(!is_crash_kernel("quiet -- elfcorehdr=1"));
    }
}
