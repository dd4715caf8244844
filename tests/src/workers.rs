// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Threads that share many small jobs.

use crate::env;
use parking_lot::Mutex;

/// Does `work` for each of `jobs`, in [`env::threads`] threads, and hands each result to `gather`,
/// one at a time and in no order. `begin` makes what a thread keeps for itself from job to job.
///
/// # Panics
/// When a job does, after the others are done.
pub fn share<J: Send, S, T>(
    jobs: impl IntoIterator<Item = J, IntoIter: Send>,
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) -> T + Sync,
    gather: impl FnMut(T) + Send,
) {
    let jobs = Mutex::new(jobs.into_iter());
    let gather = Mutex::new(gather);
    let next = || jobs.lock().next();
    std::thread::scope(|s| {
        for _ in 0..env::threads() {
            s.spawn(|| {
                let mut own = begin();
                while let Some(job) = next() {
                    let done = work(&mut own, job);
                    (gather.lock())(done);
                }
            });
        }
    });
}
