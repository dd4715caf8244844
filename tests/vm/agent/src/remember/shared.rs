// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Memory that several processes share. Each page has one process that writes it; a page says which version it
//! is, so that the others know what it must hold, and that it never becomes older.

use super::random::{mix, word, Random};
use super::system::{self, PAGE, WORDS};
use std::sync::atomic::{fence, Ordering};

/// In the first word while the rest is written.
const BUSY: u64 = 1 << 63;

#[derive(Clone, Debug)]
pub struct Shared {
    name: &'static str,
    base: u64,
    seed: u64,
    processes: u64,
    /// The versions that were last seen; exact for what this process writes.
    seen: Vec<u64>,
}

impl Shared {
    /// For memory of zeros that is mapped already.
    pub fn new(name: &'static str, base: u64, pages: u64, seed: u64, processes: u64) -> Shared {
        Shared {
            name,
            base,
            seed: mix(seed ^ base),
            processes,
            seen: vec![0; pages as usize],
        }
    }

    fn key(&self, page: u64, version: u64) -> u64 {
        mix(self.seed ^ page << 32 ^ version) | 1
    }

    fn write(&mut self, page: u64) {
        let (addr, version) = (self.base + page * PAGE, self.seen[page as usize] + 1);
        let key = self.key(page, version);
        system::store(addr, version | BUSY);
        fence(Ordering::SeqCst);
        (1..WORDS).for_each(|index| system::store(addr + index * 8, word(key, index)));
        fence(Ordering::SeqCst);
        system::store(addr, version);
        self.seen[page as usize] = version;
    }

    fn check(&mut self, page: u64, process: u64) {
        let (addr, seen) = (self.base + page * PAGE, self.seen[page as usize]);
        let version = system::load(addr);
        if version & BUSY != 0 && page % self.processes != process {
            return;
        }
        fence(Ordering::SeqCst);
        let key = match version {
            0 => 0,
            _ => self.key(page, version),
        };
        let wrong = (1..WORDS).find(|index| system::load(addr + index * 8) != word(key, *index));
        fence(Ordering::SeqCst);
        if system::load(addr) != version {
            // Somebody writes it.
            assert_ne!(page % self.processes, process, "only we write it");
            return;
        }
        let own = page % self.processes == process;
        assert!(
            wrong.is_none() && version >= seen && (!own || version == seen),
            "{} page {page} at {addr:#x}: version {version} after {seen} (own: {own}), wrong from word {wrong:?}",
            self.name
        );
        self.seen[page as usize] = version;
    }

    pub fn step(&mut self, random: &mut Random, process: u64) {
        let page = random.below(self.seen.len() as u64);
        if page % self.processes == process && random.one_in(2) {
            self.write(page);
        } else {
            self.check(page, process);
        }
    }

    pub fn check_all(&mut self, process: u64) {
        (0..self.seen.len() as u64).for_each(|page| self.check(page, process));
    }

    /// Writes most of what is this process's.
    pub fn begin(&mut self, random: &mut Random, process: u64) {
        for page in (process..self.seen.len() as u64).step_by(self.processes as usize) {
            if !random.one_in(4) {
                self.write(page);
            }
        }
    }
}
