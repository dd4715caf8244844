// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a thread's memory must be.

use std::collections::BTreeMap;

use crate::random::Random;
use crate::role::Scenario;
use crate::system::{self, PAGE};

const WORDS: u64 = PAGE / 8;

/// A page: what it was and what was written since.
#[derive(Clone, Debug, Default)]
struct Page {
    /// Its place in the file; zeros if it has none.
    file: Option<u64>,
    writes: BTreeMap<u64, u64>,
    /// Given to the kernel by MADV_FREE: still as it is, or zeros.
    freed: bool,
}

impl Page {
    fn word(&self, scenario: &Scenario, index: u64) -> u64 {
        let written = self.writes.get(&index).copied();
        written.unwrap_or_else(|| self.file.map_or(0, |page| scenario.word(page, index)))
    }
}

/// Pages by address, and the mappings they make.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    scenario: &'a Scenario,
    pages: BTreeMap<u64, Page>,
    /// From here to `end` nothing was ever mapped.
    fresh: u64,
    end: u64,
}

impl<'a> Model<'a> {
    pub fn new(scenario: &'a Scenario, process: usize, thread: u64) -> Model<'a> {
        let base = scenario.base(process, thread);
        let page = |addr| Page {
            file: scenario.in_file(addr).then_some(addr),
            ..Page::default()
        };
        let addrs = (0..scenario.pages).map(|number| base + number * PAGE);
        Model {
            scenario,
            pages: addrs.map(|addr| (addr, page(addr))).collect(),
            fresh: base + (1 << 30),
            end: base + (1 << 32),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn addresses(&self) -> Vec<u64> {
        self.pages.keys().copied().collect()
    }

    /// A run of up to `most` pages that are mapped side by side.
    pub fn some(&self, random: &mut Random, most: u64) -> (u64, u64) {
        let any = self.pages.keys().next_back().map_or(0, |last| {
            let first = self.pages.keys().next().unwrap_or(last);
            // Pages lie in few clumps far apart: one by number is better than one by address.
            let _ = first;
            *self
                .pages
                .keys()
                .nth(random.below(self.pages.len() as u64) as usize)
                .unwrap()
        });
        let want = 1 + random.below(most);
        let len = (0..want)
            .take_while(|number| self.pages.contains_key(&(any + number * PAGE)))
            .count() as u64;
        (any, len * PAGE)
    }

    /// Room that was never used, with a gap behind it.
    pub fn room(&mut self, len: u64) -> Option<u64> {
        let at = self.fresh;
        self.fresh += len + 16 * PAGE;
        (self.fresh < self.end).then_some(at)
    }

    fn range(start: u64, len: u64) -> impl Iterator<Item = u64> {
        (start..start + len).step_by(PAGE as usize)
    }

    /// Compares one word.
    pub fn check_word(&mut self, addr: u64, index: u64) {
        let page = &self.pages[&addr];
        let (want, got) = (
            page.word(self.scenario, index),
            system::load(addr + index * 8),
        );
        let good = got == want || page.freed && got == 0;
        assert!(
            good,
            "{addr:#x} word {index}: {got:#x} for {want:#x} of {page:x?}"
        );
    }

    /// Compares a page.
    pub fn check(&mut self, addr: u64) {
        let page = &self.pages[&addr];
        let got: Vec<_> = (0..WORDS)
            .map(|index| system::load(addr + index * 8))
            .collect();
        self.compare(addr, page, &got);
    }

    /// Compares a page that the kernel reads.
    pub fn check_by_kernel(&mut self, addr: u64) {
        let got = system::kernel_reads(addr).unwrap();
        let got: Vec<_> = got
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        self.compare(addr, &self.pages[&addr], &got);
    }

    fn compare(&self, addr: u64, page: &Page, got: &[u64]) {
        // The kernel takes a freed page at once or not at all, but it may do so between two words.
        let zeros = |index: usize| page.freed && got[index..].iter().all(|word| *word == 0);
        for (index, word) in got.iter().enumerate() {
            let want = page.word(self.scenario, index as u64);
            if *word != want {
                assert!(
                    zeros(index),
                    "{addr:#x} word {index}: {word:#x} for {want:#x} of {page:x?}"
                );
                return;
            }
        }
    }

    pub fn write(&mut self, addr: u64, index: u64, value: u64) {
        system::store(addr + index * 8, value);
        let scenario = self.scenario;
        let page = self.pages.get_mut(&addr).unwrap();
        if page.freed {
            // Now it stays; which it is, a word that was not zero tells.
            let lost = (0..WORDS).find(|i| *i != index && page.word(scenario, *i) != 0);
            if lost.is_none_or(|i| system::load(addr + i * 8) == 0) {
                *page = Page::default();
            }
            page.freed = false;
        }
        page.writes.insert(index, value);
        self.check_word(addr, index);
    }

    /// MADV_DONTNEED.
    pub fn zap(&mut self, start: u64, len: u64) {
        system::advise(start, len, libc::MADV_DONTNEED).unwrap();
        Self::range(start, len).for_each(|addr| drop(self.pages.insert(addr, Page::default())));
    }

    /// MADV_FREE.
    pub fn free(&mut self, start: u64, len: u64) {
        system::advise(start, len, libc::MADV_FREE).unwrap();
        Self::range(start, len).for_each(|addr| self.pages.get_mut(&addr).unwrap().freed = true);
    }

    pub fn unmap(&mut self, start: u64, len: u64) {
        system::unmap(start, len);
        Self::range(start, len).for_each(|addr| drop(self.pages.remove(&addr)));
    }

    /// mremap(2): what does not lie in one mapping stays where it is.
    pub fn remap(&mut self, start: u64, len: u64, to: Option<u64>, new_len: u64, dont_unmap: bool) {
        if let (Some(to), true) = (to, to.is_some_and(|to| self.pages.contains_key(&to))) {
            // A move that fails may have unmapped its target, or not.
            if system::remap(start, len, Some(to), new_len, false).is_err() {
                self.unmap(to, new_len);
                return;
            }
        } else if system::remap(start, len, to, new_len, dont_unmap).is_err() {
            return;
        }
        let to = to.unwrap_or(start);
        Self::range(to, new_len)
            .filter(|addr| to != start || *addr >= start + len)
            .for_each(|addr| {
                self.pages.remove(&addr);
            });
        let moved: Vec<_> = Self::range(start, len)
            .map(|addr| self.pages.remove(&addr).unwrap())
            .collect();
        for (addr, page) in Self::range(to, new_len)
            .zip(moved.into_iter().chain(std::iter::repeat(Page::default())))
        {
            self.pages.insert(addr, page);
        }
        if dont_unmap {
            Self::range(start, len).for_each(|addr| drop(self.pages.insert(addr, Page::default())));
        }
    }

    /// Two runs of the same length that do not touch, to move one onto the other.
    pub fn two(&self, random: &mut Random, most: u64) -> Option<(u64, u64, u64)> {
        let ((a, a_len), (b, b_len)) = (self.some(random, most), self.some(random, most));
        let len = a_len.min(b_len);
        (a + len <= b || b + len <= a).then_some((a, b, len))
    }
}
