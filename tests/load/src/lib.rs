// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Work on a mount that is to be cut short. What each thread does follows from its seed alone, so that
//! whoever knows how many of its operations have returned knows what has to be there.

pub mod data;
pub mod fio;
pub mod mapped;
pub mod metadata;
mod random;
pub mod tree;
pub mod xattr;

pub use random::{mix, Rng};

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// What became of the operation that was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    None,
    Before,
    /// Data that takes more than one step: some of it is there.
    Part,
    After,
}

/// What one thread does to files that are its own, and knows about them.
pub trait Load: Send {
    /// Makes what its operations begin with.
    fn prepare(&self, root: &Path);

    /// One operation, acknowledged (true); or the mount is dead and what was asked for is under way.
    fn step(&mut self, root: &Path) -> bool;

    /// Learns what the next operation does, which somebody else has done.
    fn follow(&mut self);

    /// The same where nobody knows whether it was done: it was under way.
    fn follow_under_way(&mut self);

    /// Compares what is there with what was acknowledged, and goes on from there.
    fn check(&mut self, root: &Path) -> Result<Fate, String>;
}

/// All kinds of work at once, as `seed` says; that of fio where it is installed.
#[must_use]
pub fn mixed(seed: u64) -> Vec<Box<dyn Load>> {
    let mut random = Rng(mix(seed));
    let (names, files, mappings) =
        *random.pick(&[(2, 1, 1), (3, 1, 1), (4, 1, 0), (1, 2, 1), (2, 0, 2)]);
    let mut loads = metadata::start(names, &mut random);
    loads.extend(data::start(files, &mut random));
    loads.extend(mapped::start(mappings, &mut random));
    loads.extend(fio::start(&mut random));
    loads
}

/// Does this error say that nobody serves the mount any more? EIO does where the daemon died while the
/// kernel copied a request to it or an answer from it: then the mount is dead a moment later.
pub fn dead(e: &io::Error, root: &Path) -> bool {
    let gone = |errno| matches!(errno, libc::ENOTCONN | libc::ECONNABORTED);
    match e.raw_os_error() {
        Some(libc::EIO) => {
            let limit = Instant::now() + Duration::from_secs(5);
            while Instant::now() < limit {
                match nix::sys::statvfs::statvfs(root) {
                    Err(e) if gone(e as i32) => return true,
                    _ => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            false
        }
        Some(errno) => gone(errno),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Somebody works, somebody else knows only how often: what is there is found right, and what would be
    /// there a few operations on or before is not.
    #[test]
    fn who_follows_knows_what_is_there() {
        // tmpfs can all of this, but not what `data` does.
        let start = |seed| {
            let mut random = Rng(seed);
            let mut loads = metadata::start(3, &mut random);
            loads.extend(mapped::start(1, &mut random));
            loads
        };
        let root = format!("/dev/shm/rpramfs-load-{}", std::process::id());
        let root = Path::new(&root);
        let (mut noticed, mut asked) = (0, 0);
        for seed in 0..4 {
            fs::create_dir(root).expect("mkdir");
            let mut loads = start(seed);
            loads.iter().for_each(|load| load.prepare(root));
            let count = 60 + seed as usize * 7;
            for load in &mut loads {
                assert!((0..count).all(|_| load.step(root)), "nobody ends it");
            }
            let judge = |wrong: isize| {
                let mut all = start(seed);
                let check = |load: &mut Box<dyn Load>| {
                    (0..count.saturating_add_signed(wrong)).for_each(|_| load.follow());
                    load.follow_under_way();
                    load.check(root)
                };
                all.iter_mut().map(check).collect::<Vec<_>>()
            };
            for fate in judge(0) {
                // Some operations change nothing.
                assert!(matches!(fate, Ok(Fate::Before)), "{fate:?}");
            }
            for wrong in [-12, 12] {
                let fates = judge(wrong);
                asked += fates.len();
                noticed += fates.iter().filter(|fate| fate.is_err()).count();
            }
            fs::remove_dir_all(root).expect("remove");
        }
        assert!(noticed * 10 >= asked * 9, "{noticed} of {asked}");
    }
}
