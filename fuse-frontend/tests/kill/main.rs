// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The daemon is killed in the middle of work. What a call returned from is in the region, whatever was
//! under way has happened or not, nothing else has changed, and the region is clean without repair.
//!
//! `RPRAMFS_ROUNDS` sets the number of kills of each test, `RPRAMFS_FULL=1` makes them 200 together;
//! `RPRAMFS_SEED` chooses another course. A seed repeats what each thread does and after how many
//! operations the daemon is killed, but not how the threads interleave. Needs root and /dev/fuse.

mod fio;
#[allow(dead_code)] // What only the other tests of the mount use.
#[path = "../mount/fixture.rs"]
mod fixture;

use fixture::{unable, Mount};
use fs_core::Region;
use host::{Access, Spec, UserHost, UserRegion};
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use rpramfs_load::{data, metadata, tree, xattr, Fate, Load, Rng};
use rpramfs_tests::{checker, env};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many kills: `daily`, unless more are asked for.
fn kills(daily: u64, full: u64) -> u64 {
    env::number("RPRAMFS_ROUNDS", if env::is_full() { full } else { daily })
}

fn seed() -> u64 {
    env::number("RPRAMFS_SEED", 1)
}

/// The region as the kill left it, or as an unmount did: clean, with nothing repaired.
fn clean(mount: &Mount) -> Result<(), String> {
    let spec = Spec::parse(mount.image()).map_err(|e| e.to_string())?;
    let region = host::open(&spec, Access::ReadOnly).map_err(|e| e.to_string())?;
    checker::clean(&region, &UserHost::new()).map(drop)
}

/// Files that nobody touches stay as they are, to the last attribute.
struct Witness(tree::Tree);

impl Witness {
    fn new(root: &Path) -> Self {
        let dir = root.join("witness");
        std::fs::create_dir(&dir).expect("mkdir");
        for n in 0..40usize {
            let file = dir.join(format!("f{n}"));
            std::fs::write(&file, vec![n as u8; n * 977]).expect("write");
            xattr::set(&file, "user.n", &vec![b'n'; n * 50], 0).expect("setxattr");
        }
        std::os::unix::fs::symlink("f1", dir.join("link")).expect("symlink");
        Witness(tree::read(root, &["witness".into()], true).expect("read"))
    }

    fn check(&self, root: &Path) -> Result<(), String> {
        let now = tree::read(root, &["witness".into()], true)?;
        tree::same(&self.0, &now).map_err(|e| format!("nobody's file: {e}"))
    }
}

/// The journal of a region that somebody else has mounted.
struct Journal {
    region: UserRegion,
    /// Offsets of the slots' commit words (LAYOUT.md, sections 5 and 9).
    commits: Vec<u64>,
}

impl Journal {
    fn of(mount: &Mount) -> Self {
        let spec = Spec::parse(mount.image()).expect("a path");
        let region = host::open(&spec, Access::Inspect).expect("a region");
        let start = region.load(184).expect("inside");
        let slots = region.load(136).expect("inside") & 0xffff_ffff;
        let commit = |slot| (start + 15 * slot) * 4096 + 16;
        Journal {
            commits: (0..slots).map(commit).collect(),
            region,
        }
    }

    /// How many transactions are committed but not all in place.
    fn committed(&self) -> usize {
        let busy = |at: &&u64| self.region.load(**at).expect("inside") != 0;
        self.commits.iter().filter(busy).count()
    }
}

/// Where a thread of the daemon is stopped: so many instructions on.
#[derive(Clone, Copy)]
enum Aim {
    /// From where it happens to be, mostly waiting for a request.
    Request(u64),
    /// From the commit of a transaction.
    Commit(u64),
}

/// Leaves one of the daemon's threads stopped where it is aimed at. From outside alone a signal hardly ever
/// comes in the midst of a transaction, which takes a microsecond or two.
fn stop_inside(daemon: Pid, journal: &Journal, aim: Aim) -> Option<Pid> {
    let thread = server(daemon)?;
    // Whoever waits for a request may wait for ever, if the others are faster each time.
    let stopped = || {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(500) {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            match waitpid(thread, Some(flags)) {
                Ok(WaitStatus::StillAlive) => std::thread::yield_now(),
                other => return other.is_ok(),
            }
        }
        false
    };
    ptrace::seize(thread, ptrace::Options::empty()).ok()?;
    ptrace::interrupt(thread).ok()?;
    let mut going = stopped();
    let mut step = || {
        going = going && ptrace::step(thread, None).is_ok() && stopped();
        going
    };
    let more = match aim {
        Aim::Request(instructions) => instructions,
        Aim::Commit(instructions) => {
            let begin = Instant::now();
            while journal.committed() == 0 && begin.elapsed() < Duration::from_secs(3) && step() {}
            instructions
        }
    };
    for _ in 0..more {
        step();
    }
    Some(thread)
}

/// One of the threads that serve requests.
fn server(daemon: Pid) -> Option<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).ok()?;
    tasks
        .flatten()
        .filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.starts_with("fuser-")
        })
        .find_map(|task| task.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
}

/// Whoever panics while others wait for operations to be done must not leave them waiting.
const PATIENCE: Duration = Duration::from_secs(60);

/// Works, kills, mounts and compares, `kills` times.
fn rounds(name: &str, kills: u64, most: u64, start: impl FnOnce(&mut Rng) -> Vec<Box<dyn Load>>) {
    let seed = seed();
    let mut random = Rng(seed);
    println!("kill: {name}: seed {seed}, {kills} kills");
    let mut mount = Mount::new(128 << 20);
    let mut loads = start(&mut random);
    loads.iter().for_each(|load| load.prepare(&mount.path("")));
    let witness = Witness::new(&mount.path(""));
    let journal = Journal::of(&mount);
    let (mut acknowledged, mut before, mut part, mut after, mut replayed) = (0, 0, 0, 0, 0);
    for round in 0..kills {
        // Each course of a round comes from its own seed.
        let wanted = 1 + random.below(most);
        let pause = Duration::from_micros(random.below(2000));
        let aimed = match random.below(4) {
            0 => Some(Aim::Request(random.below(4000))),
            1..=2 => Some(Aim::Commit(random.below(300))),
            _ => None,
        };
        let daemon = mount.daemon();
        let done = AtomicU64::new(0);
        let root = mount.path("");
        std::thread::scope(|s| {
            let threads: Vec<_> = loads
                .iter_mut()
                .map(|load| {
                    let (done, root) = (&done, &root);
                    s.spawn(move || {
                        while load.step(root) {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let begin = Instant::now();
            while done.load(Ordering::Relaxed) < wanted {
                if threads.iter().any(|t| t.is_finished()) || begin.elapsed() > PATIENCE {
                    break;
                }
                std::thread::sleep(Duration::from_micros(100));
            }
            // Sleeping, not spinning: the timer interrupts whoever runs, wherever he is, where a thread
            // that gives way is let in when another waits, between two requests.
            std::thread::sleep(pause);
            let stopped = aimed.and_then(|aim| stop_inside(daemon, &journal, aim));
            kill(daemon, Signal::SIGKILL).expect("kill");
            if let Some(thread) = stopped {
                // A traced thread is not gone until its tracer has heard of it.
                while !matches!(
                    waitpid(thread, Some(WaitPidFlag::__WALL)),
                    Err(_) | Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                ) {}
            }
            mount.wait_for_end();
        });
        // Not before the threads have ended: below a mount that is gone lies an ordinary directory.
        mount.detach();
        let failed = |what: &str, e: String| -> ! {
            panic!("{name}: seed {seed}, round {round}, after {wanted} operations: {what}: {e}")
        };
        acknowledged += done.into_inner();
        replayed += journal.committed();
        clean(&mount).unwrap_or_else(|e| failed("after the kill", e));
        let options = *random.pick(&[
            "",
            "threads=1",
            "threads=1,io=cached",
            "threads=8",
            "noatime",
        ]);
        mount.mount(options);
        witness
            .check(&root)
            .unwrap_or_else(|e| failed("witness", e));
        for (n, load) in loads.iter_mut().enumerate() {
            match load.check(&root) {
                Ok(Fate::None) => {}
                Ok(Fate::Before) => before += 1,
                Ok(Fate::Part) => part += 1,
                Ok(Fate::After) => after += 1,
                Err(e) => failed(&format!("thread {n}"), e),
            }
        }
    }
    mount.unmount();
    clean(&mount).unwrap_or_else(|e| panic!("{name}: seed {seed}: in the end: {e}"));
    println!(
        "kill: {name}: {kills} kills, {acknowledged} operations acknowledged, none lost; under way: \
         {before} did not happen, {part} in part, {after} happened; {replayed} transactions to replay"
    );
}

#[test]
fn kill_under_metadata() {
    if unable() {
        return;
    }
    rounds("metadata", kills(8, 90), 2000, |random| {
        metadata::start(4, random)
    });
}

#[test]
fn kill_under_data() {
    if unable() {
        return;
    }
    rounds("data", kills(5, 50), 300, |random| data::start(3, random));
}

#[test]
fn kill_under_both() {
    if unable() {
        return;
    }
    rounds("both", kills(5, 40), 600, |random| {
        let mut loads = metadata::start(2, random);
        loads.extend(data::start(2, random));
        loads
    });
}

#[test]
fn kill_under_fio() {
    if unable() {
        return;
    }
    fio::run(kills(1, 20));
}
