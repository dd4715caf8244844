// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the private memory of a thread must be.

use super::random::{word, Random};
use super::system::{self, PAGE, READ_WRITE, WORDS};
use std::collections::BTreeMap;

/// What a page is of, by what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anonymous: anything.
    Plain,
    /// Of a mapping without reservation, far larger than what is used of it.
    Sparse,
    /// Of a private mapping of a file; what was given back shows the file again.
    File,
    /// mlock(2).
    Locked,
    /// MADV_WIPEONFORK: zeros in a child.
    Wiped,
    /// MADV_GUARD_INSTALL: nobody can read it.
    Guard,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub kind: Kind,
    /// What it holds, but for single words that were written since.
    pub key: u64,
    writes: BTreeMap<u64, u64>,
    /// What the file below holds.
    below: u64,
    /// Given to the kernel by MADV_FREE: still as it is, or zeros.
    freed: bool,
    prot: i32,
}

impl Page {
    pub fn new(kind: Kind, below: u64) -> Page {
        Page {
            kind,
            key: below,
            writes: BTreeMap::new(),
            below,
            freed: false,
            prot: READ_WRITE,
        }
    }

    fn word(&self, index: u64) -> u64 {
        let written = self.writes.get(&index).copied();
        written.unwrap_or_else(|| word(self.key, index))
    }

    fn again(&self) -> Page {
        Page {
            prot: self.prot,
            ..Page::new(self.kind, self.below)
        }
    }
}

/// Pages by address.
#[derive(Clone, Debug)]
pub struct Model {
    pub pages: BTreeMap<u64, Page>,
    /// Of the mapping without reservation.
    pub sparse: std::ops::Range<u64>,
    /// From here to `end` nothing was ever mapped.
    pub fresh: u64,
    pub end: u64,
}

fn range(start: u64, len: u64) -> impl Iterator<Item = u64> {
    (start..start + len).step_by(PAGE as usize)
}

impl Model {
    /// Room that was never used, with a gap behind it.
    pub fn room(&mut self, len: u64) -> u64 {
        let at = self.fresh;
        self.fresh += len + 16 * PAGE;
        assert!(self.fresh < self.end, "out of addresses");
        at
    }

    /// A run of up to `most` pages of one kind that lie side by side, and can be written.
    fn some(&self, random: &mut Random, most: u64) -> (u64, u64, Kind) {
        let any = random.below(self.pages.len() as u64) as usize;
        let (start, first) = self.pages.iter().nth(any).expect("one of them");
        let alike =
            |page: &Page| (page.kind, page.prot, first.prot) == (first.kind, first.prot, page.prot);
        let want = 1 + random.below(most);
        let pages =
            (0..want).take_while(|n| self.pages.get(&(start + n * PAGE)).is_some_and(alike));
        (*start, pages.count() as u64 * PAGE, first.kind)
    }

    fn blame(&self, addr: u64, index: u64, got: u64, want: u64) -> ! {
        let page = &self.pages[&addr];
        // The page as it is: which other it may be, or what part of it is wrong.
        let wrong = (0..WORDS).filter(|i| system::load(addr + i * 8) != page.word(*i));
        let (wrong, sum) = (
            wrong.count(),
            (0..WORDS).fold(0, |sum, i| sum | system::load(addr + i * 8)),
        );
        panic!(
            "{addr:#x} word {index}: {got:#x} for {want:#x}; {wrong} words wrong, all zeros: {}; {page:x?}",
            sum == 0
        );
    }

    /// Does something with a page that may be protected.
    fn open<T>(&self, addr: u64, work: impl FnOnce() -> T) -> T {
        let prot = self.pages[&addr].prot;
        if prot == READ_WRITE {
            return work();
        }
        system::protect(addr, PAGE, READ_WRITE);
        let done = work();
        system::protect(addr, PAGE, prot);
        done
    }

    /// Compares a page.
    pub fn check(&self, addr: u64) {
        let page = &self.pages[&addr];
        if page.kind == Kind::Guard || page.prot == libc::PROT_NONE {
            let error = system::kernel_reads(addr).expect_err("what nobody may read was read");
            assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{addr:#x}");
        }
        if page.kind == Kind::Guard {
            return;
        }
        let look = || {
            let mut got = [0; WORDS as usize];
            (0..WORDS).for_each(|index| got[index as usize] = system::load(addr + index * 8));
            self.compare(addr, &got);
        };
        // What can be read needs no opening, and is not to be written by it.
        if page.prot == libc::PROT_NONE {
            self.open(addr, look);
        } else {
            look();
        }
    }

    fn compare(&self, addr: u64, got: &[u64]) {
        let page = &self.pages[&addr];
        // The kernel takes a freed page at once or not at all, but it may do so between two words.
        for (index, word) in (0..).zip(got) {
            let want = page.word(index);
            if *word == want {
                continue;
            }
            if !(page.freed && got[index as usize..].iter().all(|word| *word == 0)) {
                self.blame(addr, index, *word, want);
            }
            return;
        }
    }

    /// Compares a page that the kernel reads.
    fn check_by_kernel(&self, addr: u64) {
        let page = &self.pages[&addr];
        if page.kind != Kind::Guard && page.prot != libc::PROT_NONE {
            let got = system::kernel_reads(addr).expect("the kernel reads a page");
            self.compare(addr, &got);
        }
    }

    fn check_word(&self, addr: u64, index: u64) {
        let page = &self.pages[&addr];
        let (want, got) = (page.word(index), system::load(addr + index * 8));
        if !(got == want || page.freed && got == 0) {
            self.blame(addr, index, got, want);
        }
    }

    /// Compares all there is.
    pub fn check_all(&self) {
        self.pages.keys().for_each(|addr| self.check(*addr));
    }

    /// Compares some pages.
    pub fn check_some(&self, random: &mut Random, pages: u64) {
        for _ in 0..pages {
            self.check(self.some(random, 1).0);
        }
    }

    /// Writes a whole page.
    pub fn fill(&mut self, addr: u64, key: u64) {
        self.open(addr, || {
            (0..WORDS).for_each(|index| system::store(addr + index * 8, word(key, index)));
        });
        let page = self.pages.get_mut(&addr).expect("a page");
        page.key = key;
        page.writes.clear();
        page.freed = false;
    }

    fn write(&mut self, addr: u64, index: u64, value: u64) {
        let page = &self.pages[&addr];
        // From the write on a freed page stays; which it is, a word that was not zero tells.
        let tell = (0..WORDS).find(|i| *i != index && page.word(*i) != 0);
        let lost = self.open(addr, || {
            system::store(addr + index * 8, value);
            page.freed && tell.is_none_or(|i| system::load(addr + i * 8) == 0)
        });
        let page = self.pages.get_mut(&addr).expect("a page");
        if lost {
            *page = page.again();
        }
        page.freed = false;
        page.writes.insert(index, value);
        if page.prot != libc::PROT_NONE {
            self.check_word(addr, index);
        }
    }

    /// MADV_DONTNEED.
    pub fn zap(&mut self, start: u64, len: u64) {
        system::advise(start, len, libc::MADV_DONTNEED).expect("MADV_DONTNEED");
        for addr in range(start, len) {
            let page = self.pages.get_mut(&addr).expect("a page");
            *page = page.again();
        }
    }

    fn free(&mut self, start: u64, len: u64) {
        system::advise(start, len, libc::MADV_FREE).expect("MADV_FREE");
        for addr in range(start, len) {
            self.pages.get_mut(&addr).expect("a page").freed = true;
        }
    }

    fn unmap(&mut self, start: u64, len: u64) {
        system::unmap(start, len);
        range(start, len).for_each(|addr| drop(self.pages.remove(&addr)));
    }

    pub fn protect(&mut self, start: u64, len: u64, prot: i32) {
        system::protect(start, len, prot);
        for addr in range(start, len) {
            self.pages.get_mut(&addr).expect("a page").prot = prot;
        }
    }

    fn map(&mut self, len: u64, huge: bool) {
        let at = self.room(len);
        system::map(at, len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None);
        if huge {
            let _ = system::advise(at, len, libc::MADV_HUGEPAGE);
        }
        range(at, len).for_each(|addr| drop(self.pages.insert(addr, Page::new(Kind::Plain, 0))));
    }

    /// mremap(2). `to` is free, or pages of this model.
    fn remap(&mut self, start: u64, len: u64, to: Option<u64>, new_len: u64, keep: bool) {
        let more = if keep { libc::MREMAP_DONTUNMAP } else { 0 };
        let result = system::remap(start, len, to, new_len, more);
        let Some(to) = to else {
            // In place it grows or shrinks, or all is as it was.
            if result.is_ok() {
                range(start + new_len.min(len), len.saturating_sub(new_len))
                    .for_each(|addr| drop(self.pages.remove(&addr)));
                range(start + len, new_len.saturating_sub(len))
                    .for_each(|addr| drop(self.pages.insert(addr, Page::new(Kind::Plain, 0))));
            }
            return;
        };
        if result.is_err() {
            // Of several mappings some may have been moved; what was at the target is gone or not.
            let free = !self.pages.contains_key(&to);
            for at in range(0, len.min(new_len)) {
                let moved = if free {
                    system::is_mapped(to + at)
                } else {
                    !system::is_mapped(start + at)
                };
                if moved {
                    let page = self.pages.remove(&(start + at)).expect("a page");
                    if keep {
                        self.pages.insert(start + at, page.again());
                    }
                    self.pages.insert(to + at, page);
                } else if self.pages.remove(&(to + at)).is_some() {
                    system::unmap(to + at, PAGE);
                }
            }
            return;
        }
        let moved: Vec<_> = range(start, len)
            .map(|addr| self.pages.remove(&addr).expect("a page"))
            .collect();
        let kind = moved[0].kind;
        if keep {
            for (addr, page) in range(start, len).zip(&moved) {
                self.pages.insert(addr, page.again());
            }
        }
        let new = std::iter::repeat_with(|| Page::new(kind, 0));
        for (addr, page) in range(to, new_len).zip(moved.into_iter().chain(new)) {
            self.pages.insert(addr, page);
        }
    }

    /// One thing, by chance.
    pub fn step(&mut self, random: &mut Random) {
        let (start, len, kind) = self.some(random, 16);
        if kind == Kind::Guard {
            return self.check(start);
        }
        let writable = self.pages[&start].prot == READ_WRITE;
        match random.below(64) {
            0..12 if writable => self.check_word(start, random.below(WORDS)),
            12..18 => self.check(start),
            18..22 => self.check_by_kernel(start),
            22..32 => self.write(start, random.below(WORDS), random.next()),
            32..36 => self.fill(start, random.next()),
            // Far from everything else: zeros until it is written.
            36..39 => {
                let pages = (self.sparse.end - self.sparse.start) / PAGE;
                let addr = self.sparse.start + random.below(pages) * PAGE;
                let fresh = || Page::new(Kind::Sparse, 0);
                self.pages.entry(addr).or_insert_with(fresh);
                self.check(addr);
                self.fill(addr, random.next());
            }
            39..42 if kind != Kind::Locked => self.zap(start, len),
            42..44 if matches!(kind, Kind::Plain | Kind::Sparse) => self.free(start, len),
            // A page in the middle, so that mappings are split.
            44..46 if kind == Kind::Plain || kind == Kind::File => {
                let len = len.min(4 * PAGE);
                self.unmap(start, len);
            }
            46..47 => self.map((1 + random.below(24)) * PAGE, random.one_in(3)),
            47..52 if kind == Kind::Plain && writable => {
                let new_len = match random.below(3) {
                    0 => len,
                    1 => (1 + random.below(len / PAGE)) * PAGE,
                    _ => len + random.below(8) * PAGE,
                };
                let keep = new_len == len && random.one_in(3);
                let to = self.room(new_len);
                self.remap(start, len, Some(to), new_len, keep);
            }
            47..50 if kind == Kind::File => {
                let to = self.room(len);
                self.remap(start, len, Some(to), len, false);
            }
            52..54 if kind == Kind::Plain && writable => {
                let (other, other_len, other_kind) = self.some(random, 16);
                let len = len.min(other_len);
                let apart = start + len <= other || other + len <= start;
                if apart && other_kind == Kind::Plain {
                    self.remap(start, len, Some(other), len, false);
                }
            }
            54..56 if kind == Kind::Plain && writable => {
                let new_len = match random.below(2) {
                    0 => len + random.below(8) * PAGE,
                    _ => PAGE,
                };
                self.remap(start, len, None, new_len, false);
            }
            56..60 if kind != Kind::Sparse => {
                let to = [libc::PROT_NONE, libc::PROT_READ, READ_WRITE, READ_WRITE];
                self.protect(start, len, to[random.below(4) as usize]);
            }
            60..62 if kind == Kind::Plain => {
                let to = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
                // Not every kernel has huge pages.
                let _ = system::advise(start, len, to[random.below(2) as usize]);
            }
            _ => {}
        }
    }

    /// What a child has of it.
    pub fn forked(&mut self) {
        for page in self.pages.values_mut() {
            if page.kind == Kind::Wiped {
                *page = page.again();
            }
        }
    }
}
