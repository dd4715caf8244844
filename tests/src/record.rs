// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Regions that remember: every store in program order, which pages were touched, how many
//! accesses were made. And one that lets others go first.

use crate::host::Rng;
use crate::mem::MemRegion;
use fs_core::{Error, Region, Result};
use parking_lot::Mutex;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A line of the core that stores.
pub type Site = &'static Location<'static>;

/// One call that stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Who called.
    pub site: Site,
    /// What is there now (see [`Recorder::name_places`]).
    pub place: &'static str,
    /// A bulk call: its words have no order of their own, and only come before a later single store.
    pub bulk: bool,
}

/// Names what lies at an offset of a region, for the choice of mutants.
pub type Places = fn(&dyn Fn(u64) -> u64, u64) -> &'static str;

/// One aligned word that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where.
    pub off: u64,
    /// What was there before.
    pub old: u64,
    /// What is there now.
    pub new: u64,
    /// Number of the call it was part of: words of one bulk call have no order of their own.
    pub call: u32,
}

/// Everything stored between `start` and `stop`.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Words in program order; words that were stored but did not change are left out.
    pub stores: Vec<Store>,
    /// Markers: index of the first store behind it, and a label.
    pub marks: Vec<(usize, String)>,
    /// The calls, by their numbers.
    pub calls: Vec<Call>,
    /// How many stores there were each time the core waited for them to persist, and who waited.
    pub persisted: Vec<(usize, Site)>,
}

/// In which order the words of one bulk call reach the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// Ascending.
    Forward,
    /// Descending.
    Reverse,
    /// At random, from this seed.
    Shuffled(u64),
}

/// A bulk call of more words than this is stopped only at its first, last and some random words,
/// unless all are asked for.
pub const BULK_WORDS: usize = 64;

impl Log {
    /// The same stores with the words of each bulk call in another order.
    #[must_use]
    pub fn ordered(&self, order: WordOrder) -> Vec<Store> {
        let mut all = self.stores.clone();
        let mut rng = match order {
            WordOrder::Forward => return all,
            WordOrder::Reverse => None,
            WordOrder::Shuffled(seed) => Some(Rng(seed)),
        };
        for run in calls(&self.stores) {
            let words = &mut all[run];
            match &mut rng {
                None => words.reverse(),
                Some(rng) => {
                    for i in (1..words.len()).rev() {
                        words.swap(i, rng.below(i as u64 + 1) as usize);
                    }
                }
            }
        }
        all
    }

    /// After how many stores to stop: every one, except that of a long bulk call only the first
    /// two, the last two and `some` at random count. Contains 0 and the end.
    #[must_use]
    pub fn points(&self, some: usize, seed: u64) -> Vec<usize> {
        let mut rng = Rng(seed);
        let mut at = vec![0];
        for run in calls(&self.stores) {
            let (a, b) = (run.start, run.end);
            if b - a <= BULK_WORDS {
                at.extend(a + 1..=b);
            } else {
                at.extend([a + 1, a + 2, b - 1, b]);
                for _ in 0..some {
                    at.push(a + 1 + rng.below((b - a) as u64) as usize);
                }
            }
        }
        at.sort_unstable();
        at.dedup();
        at
    }
}

/// Runs of stores that belong to one call.
pub(crate) fn calls(stores: &[Store]) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 1..=stores.len() {
        if i == stores.len() || stores[i].call != stores[start].call {
            runs.push(start..i);
            start = i;
        }
    }
    runs
}

/// A region whose stores are recorded while recording is on.
#[derive(Debug)]
pub struct Recorder<R> {
    inner: R,
    on: AtomicBool,
    state: Mutex<Log>,
    places: Option<Places>,
    lost: Option<Lost>,
}

/// A store that a mutant does not make.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Who stores, to what kind of place.
    pub line: (Site, &'static str),
    /// Only the store of this number among those of the line; all without.
    pub only: Option<usize>,
}

impl<R: Region> Recorder<R> {
    /// Wraps a region; recording is off.
    pub fn new(inner: R) -> Self {
        Recorder {
            inner,
            on: AtomicBool::new(false),
            state: Mutex::new(Log::default()),
            places: None,
            lost: None,
        }
    }

    /// Gives calls the names of the places they store to.
    pub fn name_places(&mut self, places: Places) {
        self.places = Some(places);
    }

    /// Were places named?
    pub fn names_places(&self) -> bool {
        self.places.is_some()
    }

    /// A mutant: while recording is on, these stores are lost.
    pub fn lose(&mut self, lost: Lost) {
        self.lost = Some(lost);
    }

    /// Forgets what was recorded and begins.
    pub fn start(&self) {
        *self.state.lock() = Log::default();
        self.on.store(true, Ordering::SeqCst);
    }

    /// Puts a marker behind the stores so far.
    pub fn mark(&self, label: impl Into<String>) {
        let mut state = self.state.lock();
        let at = state.stores.len();
        state.marks.push((at, label.into()));
    }

    /// Ends recording and hands out what there is.
    pub fn stop(&self) -> Log {
        self.on.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.state.lock())
    }

    /// How many words were recorded so far.
    pub fn recorded(&self) -> usize {
        self.state.lock().stores.len()
    }

    /// The region underneath.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Runs `change`, which stores into `off..off+len`, and records the words it changed. The
    /// lock makes the recorded order the real one among threads.
    fn around<T>(
        &self,
        site: Site,
        bulk: bool,
        off: u64,
        len: u64,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !self.on.load(Ordering::Relaxed) || len == 0 {
            return change();
        }
        crate::baton::before_store();
        let start = off & !7;
        let end = match off.checked_add(len).and_then(|e| e.checked_add(7)) {
            Some(e) if (e & !7) <= self.inner.len() => e & !7,
            _ => return change(),
        };
        let mut state = self.state.lock();
        let call = state.calls.len() as u32;
        let mut old = vec![0u8; (end - start) as usize];
        self.inner.read(start, &mut old)?;
        let done = change()?;
        let mut new = vec![0u8; old.len()];
        self.inner.read(start, &mut new)?;
        let place = self.places.map_or("", |f| {
            let load = |at: u64| self.inner.load(at).unwrap_or_default();
            f(&load, off)
        });
        if let Some(lost) = self.lost.filter(|l| l.line == (site, place)) {
            let made = state
                .calls
                .iter()
                .filter(|c| (c.site, c.place) == lost.line);
            if lost.only.is_none_or(|n| n == made.count()) {
                self.inner.write(start, &old)?;
                // It counts as made, without an effect.
                new = old.clone();
            }
        }
        state.calls.push(Call { site, place, bulk });
        for (i, (o, n)) in old.chunks_exact(8).zip(new.chunks_exact(8)).enumerate() {
            if o != n {
                state.stores.push(Store {
                    off: start + 8 * i as u64,
                    old: u64::from_le_bytes(o.try_into().expect("8 bytes")),
                    new: u64::from_le_bytes(n.try_into().expect("8 bytes")),
                    call,
                });
            }
        }
        Ok(done)
    }
}

impl<R: Region> Region for Recorder<R> {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.inner.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        let site = Location::caller();
        self.around(site, false, off, 8, || self.inner.store(off, value))
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        let site = Location::caller();
        self.around(site, false, off, 8, || {
            self.inner.compare_exchange(off, old, new)
        })
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        let (site, len) = (Location::caller(), buf.len() as u64);
        self.around(site, true, off, len, || self.inner.write(off, buf))
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        let site = Location::caller();
        self.around(site, true, off, len, || self.inner.zero(off, len))
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let site = Location::caller();
        self.around(site, true, to, len, || self.inner.copy(from, to, len))
    }
    fn persist(&self) -> Result<()> {
        if self.on.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            let at = state.stores.len();
            state.persisted.push((at, Location::caller()));
        }
        self.inner.persist()
    }
}

/// A region that knows which of its pages were stored to, so that it can be made equal to another
/// one again cheaply.
#[derive(Debug)]
pub struct Scratch {
    mem: MemRegion,
    bits: Vec<AtomicU64>,
    pages: Mutex<Vec<u64>>,
}

impl Scratch {
    /// Zeros; what is stored from now on counts as touched.
    #[must_use]
    pub fn zeroed(len: u64) -> Self {
        Scratch {
            mem: MemRegion::new(len),
            bits: (0..len.div_ceil(4096 * 64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            pages: Mutex::new(Vec::new()),
        }
    }

    /// A copy of `image`.
    #[must_use]
    pub fn new(image: &Image) -> Self {
        let scratch = Scratch::zeroed(image.mem.len());
        for &page in &image.pages {
            scratch.mem.copy_page_from(&image.mem, page * 4096);
        }
        scratch
    }

    /// What it holds now, if it began as zeros.
    #[must_use]
    pub fn image(&self) -> Image {
        let mem = MemRegion::new(self.mem.len());
        let pages = self.pages.lock().clone();
        for &page in &pages {
            mem.copy_page_from(&self.mem, page * 4096);
        }
        Image { mem, pages }
    }

    /// Notes that bytes there differ, or will.
    pub fn touch(&self, off: u64, len: u64) {
        if len == 0 || off >= self.mem.len() {
            return;
        }
        let last = off.saturating_add(len - 1).min(self.mem.len() - 1) / 4096;
        for page in off / 4096..=last {
            let bit = 1 << (page % 64);
            let word = &self.bits[(page / 64) as usize];
            if word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
            {
                self.pages.lock().push(page);
            }
        }
    }

    /// Makes all pages touched since the last time equal to those of `image`.
    pub fn reset(&self, image: &MemRegion) {
        for page in self.pages.lock().drain(..) {
            self.bits[(page / 64) as usize].fetch_and(!(1 << (page % 64)), Ordering::Relaxed);
            self.mem.copy_page_from(image, page * 4096);
        }
    }

    /// The memory itself, for looking at it.
    #[must_use]
    pub fn mem(&self) -> &MemRegion {
        &self.mem
    }
}

impl Region for Scratch {
    fn len(&self) -> u64 {
        self.mem.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.mem.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.touch(off, 8);
        self.mem.store(off, value)
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.touch(off, 8);
        self.mem.compare_exchange(off, old, new)
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.mem.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.touch(off, buf.len() as u64);
        self.mem.write(off, buf)
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.touch(off, len);
        self.mem.zero(off, len)
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.touch(to, len);
        self.mem.copy(from, to, len)
    }
}

/// The bytes of a region, and which of its pages may be other than zero.
#[derive(Debug)]
pub struct Image {
    /// The bytes.
    pub mem: MemRegion,
    /// Pages that were ever stored to.
    pub pages: Vec<u64>,
}

impl Clone for Image {
    fn clone(&self) -> Self {
        let mem = MemRegion::new(self.mem.len());
        for &page in &self.pages {
            mem.copy_page_from(&self.mem, page * 4096);
        }
        let pages = self.pages.clone();
        Image { mem, pages }
    }
}

/// A region that answers only so many accesses: what runs in circles on a corrupt image ends.
#[derive(Debug)]
pub struct Metered<R> {
    inner: R,
    left: AtomicU64,
    out: AtomicBool,
    beyond: AtomicU64,
}

impl<R: Region> Metered<R> {
    /// Wraps a region with a budget of accesses; each 4096 bytes of a bulk one count as one.
    pub fn new(inner: R, budget: u64) -> Self {
        Metered {
            inner,
            left: AtomicU64::new(budget),
            out: AtomicBool::new(false),
            beyond: AtomicU64::new(0),
        }
    }

    /// Sets a new budget.
    pub fn refill(&self, budget: u64) {
        self.left.store(budget, Ordering::Relaxed);
        self.out.store(false, Ordering::Relaxed);
        self.beyond.store(0, Ordering::Relaxed);
    }

    /// What is left of the budget.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Was the budget ever exceeded?
    pub fn exceeded(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    fn spend(&self, len: u64) -> Result<()> {
        let cost = 1 + len / 4096;
        let took = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                n.checked_sub(cost)
            });
        if took.is_err() {
            self.out.store(true, Ordering::Relaxed);
            // Errors do not end it either: the one case where only unwinding helps.
            let more = self.beyond.fetch_add(1, Ordering::Relaxed);
            assert!(more < 1_000_000, "runs in circles");
            return Err(Error::corrupt(0, "out of budget"));
        }
        Ok(())
    }
}

impl<R: Region> Region for Metered<R> {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.spend(0)?;
        self.inner.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.spend(0)?;
        self.inner.store(off, value)
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.spend(0)?;
        self.inner.compare_exchange(off, old, new)
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.spend(buf.len() as u64)?;
        self.inner.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.spend(buf.len() as u64)?;
        self.inner.write(off, buf)
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.spend(len.min(self.inner.len()))?;
        self.inner.zero(off, len)
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.spend(len.min(self.inner.len()))?;
        self.inner.copy(from, to, len)
    }
}

/// A region whose users give way to one another every few stores, so that threads meet in the
/// middle of what they do even where there are fewer CPUs than threads.
#[derive(Debug)]
pub struct Polite<R> {
    inner: R,
    every: u64,
    stores: AtomicU64,
}

impl<R: Region> Polite<R> {
    /// Wraps a region; each `every`-th store gives way.
    pub fn new(inner: R, every: u64) -> Self {
        Polite {
            inner,
            every,
            stores: AtomicU64::new(0),
        }
    }

    /// The region underneath.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    fn after<T>(&self, done: T) -> T {
        if self.stores.fetch_add(1, Ordering::Relaxed) % self.every == 0 {
            std::thread::yield_now();
        }
        done
    }
}

impl<R: Region> Region for Polite<R> {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.inner.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.after(self.inner.store(off, value))
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.after(self.inner.compare_exchange(off, old, new))
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.after(self.inner.write(off, buf))
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.after(self.inner.zero(off, len))
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.after(self.inner.copy(from, to, len))
    }
}

/// A region that refuses every store after so many, as if the machine had stopped there.
#[derive(Debug)]
pub struct Stopping<R> {
    inner: R,
    left: AtomicU64,
    tears: bool,
}

impl<R: Region> Stopping<R> {
    /// Wraps a region that takes `stores` more; a bulk write is one.
    pub fn new(inner: R, stores: u64) -> Self {
        Stopping {
            inner,
            left: AtomicU64::new(stores),
            tears: false,
        }
    }

    /// The same, where a bulk write may end between two of its words. To keep the number of places
    /// down, only its first, middle and last words count.
    pub fn tearing(inner: R, stores: u64) -> Self {
        Stopping {
            tears: true,
            ..Stopping::new(inner, stores)
        }
    }

    /// How many stores it still takes.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    fn step(&self) -> Result<()> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .map(|_| ())
            .map_err(|_| Error::NotPermitted)
    }
}

impl<R: Region> Region for Stopping<R> {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, off: u64) -> Result<u64> {
        self.inner.load(off)
    }
    fn store(&self, off: u64, value: u64) -> Result<()> {
        self.step()?;
        self.inner.store(off, value)
    }
    fn compare_exchange(
        &self,
        off: u64,
        old: u64,
        new: u64,
    ) -> Result<core::result::Result<(), u64>> {
        self.step()?;
        self.inner.compare_exchange(off, old, new)
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read(off, buf)
    }
    fn write(&self, off: u64, buf: &[u8]) -> Result<()> {
        if !self.tears {
            self.step()?;
            return self.inner.write(off, buf);
        }
        let words = buf.len() / 8;
        for (i, word) in buf.chunks(8).enumerate() {
            if i == 0 || i == words / 2 || i + 1 == words {
                self.step()?;
            }
            self.inner.write(off + 8 * i as u64, word)?;
        }
        Ok(())
    }
    fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.step()?;
        self.inner.zero(off, len)
    }
    fn copy(&self, from: u64, to: u64, len: u64) -> Result<()> {
        self.step()?;
        self.inner.copy(from, to, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The base and the recorded stores give the memory at any point, and at the end exactly.
    #[test]
    fn replay_gives_the_memory() {
        let tape = Recorder::new(Scratch::zeroed(64 << 10));
        tape.write(5000, &[9; 300]).unwrap();
        let base = tape.inner().image();
        tape.start();
        tape.store(8, 7).unwrap();
        tape.write(3, &[1, 2, 3]).unwrap();
        tape.write(4093, &Rng(4).bytes(1000)).unwrap();
        tape.zero(5001, 50).unwrap();
        tape.copy(4096, 20_480, 777).unwrap();
        assert_eq!(tape.compare_exchange(8, 7, 9), Ok(Ok(())));
        assert_eq!(tape.compare_exchange(8, 7, 10), Ok(Err(9)));
        let log = tape.stop();
        tape.store(0, 99).unwrap();
        tape.store(0, 0x0000_0302_0100_0000).unwrap();
        for order in [
            WordOrder::Forward,
            WordOrder::Reverse,
            WordOrder::Shuffled(3),
        ] {
            let image = base.clone();
            for s in log.ordered(order) {
                assert_eq!(image.mem.load(s.off), Ok(s.old));
                image.mem.store(s.off, s.new).unwrap();
            }
            assert!(image.mem.bytes() == tape.inner().mem().bytes(), "{order:?}");
        }
        let points = log.points(3, 1);
        assert_eq!((points[0], *points.last().unwrap()), (0, log.stores.len()));
        assert!(points.len() < log.stores.len());
        // Single stores are all stopped at; the swap at the end is one of them.
        assert!(points.contains(&(log.stores.len() - 1)));
    }

    #[test]
    fn scratch_goes_back() {
        let first = Scratch::zeroed(1 << 20);
        first.write(100_000, &Rng(1).bytes(9000)).unwrap();
        let image = first.image();
        let scratch = Scratch::new(&image);
        scratch.zero(90_000, 50_000).unwrap();
        scratch.store(0, 1).unwrap();
        scratch.copy(0, 1 << 19, 4096).unwrap();
        scratch.reset(&image.mem);
        assert!(scratch.mem().bytes() == image.mem.bytes());
    }

    #[test]
    fn budgets_run_out() {
        let m = Metered::new(MemRegion::new(4096), 3);
        assert!(m.load(0).is_ok() && m.load(0).is_ok() && m.load(0).is_ok());
        assert!(!m.exceeded());
        assert!(m.load(0).is_err() && m.exceeded());
    }
}
