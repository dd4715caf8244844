// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The surroundings the core runs in under test: a clock that stands still unless told to tick,
//! seeded randomness, and locks that notice when they are taken twice or left behind.

use crate::baton;
use crate::mutant;
use crate::record::Site;
use fs_core::{Corruption, Host, LOCKS};
use parking_lot::lock_api::RawMutex as _;
use parking_lot::{Mutex, RawMutex};
use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

pub use rpramfs_load::{mix, Rng};

/// First value of the clock.
pub const EPOCH: i64 = 1_700_000_000_000_000_000;
/// One tick of it.
pub const TICK: i64 = 1_000_000;

struct Inner {
    now: AtomicI64,
    random: AtomicU64,
    /// How many hosts came after this one: each has randomness of its own.
    heirs: AtomicU64,
    locks: Vec<RawMutex>,
    /// Which thread holds each lock; 0: none.
    holders: Vec<AtomicU64>,
    reports: Mutex<Vec<Corruption>>,
    watching: AtomicBool,
    sums: Mutex<Sums>,
}

/// Checksums as mutants see them.
#[derive(Default)]
struct Sums {
    seen: BTreeSet<(Site, &'static str)>,
    wrong: Option<(Site, &'static str)>,
}

/// A [`Host`] for tests. Clones share everything.
#[derive(Clone)]
pub struct TestHost(Arc<Inner>);

impl std::fmt::Debug for TestHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestHost")
    }
}

static THREADS: AtomicU64 = AtomicU64::new(1);
static CPUS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    /// A thread that asked for no number of its own is number 0, so that runs repeat exactly.
    static CPU: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Gives the calling thread this number for [`Host::cpu`].
pub fn set_cpu(cpu: usize) {
    CPU.with(|c| c.set(cpu));
}

/// Gives the calling thread a number of its own for [`Host::cpu`].
pub fn own_cpu() {
    CPU.with(|c| c.set(CPUS.fetch_add(1, Ordering::Relaxed)));
}

impl TestHost {
    /// A host whose randomness starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        TestHost(Arc::new(Inner {
            now: AtomicI64::new(EPOCH),
            random: AtomicU64::new(seed ^ 0x9e37_79b9_7f4a_7c15),
            heirs: AtomicU64::new(0),
            locks: (0..LOCKS).map(|_| RawMutex::INIT).collect(),
            holders: (0..LOCKS).map(|_| AtomicU64::new(0)).collect(),
            reports: Mutex::new(Vec::new()),
            watching: AtomicBool::new(false),
            sums: Mutex::new(Sums::default()),
        }))
    }

    /// From now on notes who computes checksums of what; those of `wrong` come out wrong.
    pub fn watch_sums(&self, wrong: Option<(Site, &'static str)>) {
        *self.0.sums.lock() = Sums {
            seen: BTreeSet::new(),
            wrong,
        };
        self.0.watching.store(true, Ordering::Relaxed);
    }

    /// Who computed checksums of what since then.
    #[must_use]
    pub fn watched_sums(&self) -> BTreeSet<(Site, &'static str)> {
        self.0.watching.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.0.sums.lock()).seen
    }

    /// A host that goes on from here in time, with free locks and other randomness: what a new
    /// kernel finds after a crash.
    #[must_use]
    pub fn reborn(&self) -> Self {
        let heir = self.0.heirs.fetch_add(1, Ordering::Relaxed);
        let new = TestHost::new(mix(self.0.random.load(Ordering::Relaxed)) ^ mix(heir));
        new.0
            .now
            .store(self.0.now.load(Ordering::Relaxed), Ordering::Relaxed);
        new
    }

    /// Lets one tick pass; returns the new time.
    pub fn tick(&self) -> i64 {
        self.0.now.fetch_add(TICK, Ordering::Relaxed) + TICK
    }

    /// Sets the clock.
    pub fn set_now(&self, now: i64) {
        self.0.now.store(now, Ordering::Relaxed);
    }

    /// Corruptions reported so far.
    #[must_use]
    pub fn reports(&self) -> Vec<Corruption> {
        self.0.reports.lock().clone()
    }

    /// Ids of locks that are held.
    #[must_use]
    pub fn held(&self) -> Vec<usize> {
        (0..LOCKS)
            .filter(|&i| self.0.holders[i].load(Ordering::Relaxed) != 0)
            .collect()
    }
}

impl Host for TestHost {
    fn now(&self) -> i64 {
        self.0.now.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        if let Some(x) = baton::random() {
            return x;
        }
        // splitmix64
        let x = self
            .0
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        mix(x)
    }

    fn crc32(&self, crc: u32, data: &[u8]) -> u32 {
        let mut h = crc32fast::Hasher::new_with_initial(crc);
        h.update(data);
        let crc = h.finalize();
        // Eight bytes are the offset that goes before the structure.
        if self.0.watching.load(Ordering::Relaxed) && data.len() != 8 {
            let mut sums = self.0.sums.lock();
            let magic = data.first_chunk().map_or(0, |m| u32::from_le_bytes(*m));
            let at = (Location::caller(), mutant::structure(magic));
            sums.seen.insert(at);
            return crc ^ u32::from(sums.wrong == Some(at));
        }
        crc
    }

    fn lock(&self, id: usize) {
        let me = THREAD.with(|t| *t);
        assert_ne!(
            self.0.holders[id].load(Ordering::Relaxed),
            me,
            "lock {id} taken twice by one thread"
        );
        if !self.0.locks[id].try_lock() {
            // The holder may be waiting for us to hand the machine over.
            while baton::pass() {
                if self.0.locks[id].try_lock() {
                    self.0.holders[id].store(me, Ordering::Relaxed);
                    return;
                }
            }
            self.0.locks[id].lock();
        }
        self.0.holders[id].store(me, Ordering::Relaxed);
    }

    fn try_lock(&self, id: usize) -> bool {
        let got = self.0.locks[id].try_lock();
        if got {
            self.0.holders[id].store(THREAD.with(|t| *t), Ordering::Relaxed);
        }
        got
    }

    fn unlock(&self, id: usize) {
        let holder = self.0.holders[id].swap(0, Ordering::Relaxed);
        assert_eq!(
            holder,
            THREAD.with(|t| *t),
            "lock {id} given back by a thread that does not hold it"
        );
        // SAFETY: the assertion above shows that this thread took the lock and holds it still.
        unsafe { self.0.locks[id].unlock() };
    }

    fn cpu(&self) -> usize {
        CPU.with(std::cell::Cell::get)
    }

    fn report(&self, corruption: &Corruption) {
        self.0.reports.lock().push(*corruption);
    }
}
