// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! One read buffer for each thread.

use std::cell::RefCell;

/// Pages are what the kernel copies by.
const ALIGN: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with `size` bytes of this thread's buffer, page-aligned. They hold what the last
/// user left: give out only what was written.
pub fn with<T>(size: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size + ALIGN {
            *buffer = vec![0; size + ALIGN];
        }
        let start = buffer.as_ptr().align_offset(ALIGN);
        work(&mut buffer[start..start + size])
    })
}
