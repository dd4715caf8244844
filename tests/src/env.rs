// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the environment asks of the tests.

use std::str::FromStr;

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|v| v != "0")
}

/// `RPRAMFS_FULL=1`: everything, where daily work makes do with a choice.
#[must_use]
pub fn is_full() -> bool {
    is_set("RPRAMFS_FULL")
}

/// `RPRAMFS_VERBOSE=1`: what is done and what comes of it, one by one.
#[must_use]
pub fn is_verbose() -> bool {
    is_set("RPRAMFS_VERBOSE")
}

/// The number that the variable `name` holds; `daily` where it holds none.
#[must_use]
pub fn number<T: FromStr>(name: &str, daily: T) -> T {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(daily)
}

/// How many threads a search takes: `RPRAMFS_THREADS`, or as many as run at once.
#[must_use]
pub fn threads() -> usize {
    let all = std::thread::available_parallelism().map_or(2, usize::from);
    number("RPRAMFS_THREADS", all).max(1)
}
