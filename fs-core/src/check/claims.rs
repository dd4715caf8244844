// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Which page belongs to whom.

use crate::types::Ino;
use alloc::collections::BTreeMap;

/// A run of pages that somebody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// First page.
    pub start: u64,
    /// Number of pages.
    pub len: u64,
    /// Inode number or owner id.
    pub owner: Ino,
}

/// Runs of pages and their owners. Neighbouring runs of one owner are one: memory grows with what
/// is in use and how scattered it is, never with the size of the region.
#[derive(Debug, Default)]
pub struct Claims {
    runs: BTreeMap<u64, (u64, Ino)>,
    pages: u64,
}

impl Claims {
    /// Pages claimed.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// The first claim that shares a page with `[start, start + len)`.
    #[must_use]
    pub fn overlap(&self, start: u64, len: u64) -> Option<Claim> {
        let end = start.saturating_add(len);
        if let Some((&s, &(l, owner))) = self.runs.range(..=start).next_back() {
            if s.saturating_add(l) > start {
                return Some(Claim {
                    start: s,
                    len: l,
                    owner,
                });
            }
        }
        self.runs
            .range(start..end)
            .next()
            .map(|(&start, &(len, owner))| Claim { start, len, owner })
    }

    /// Who claims this page.
    #[must_use]
    pub fn owner(&self, page: u64) -> Option<Ino> {
        self.overlap(page, 1).map(|c| c.owner)
    }

    /// Claims pages; where one of them is taken, says by whom and claims nothing.
    pub fn claim(&mut self, start: u64, len: u64, owner: Ino) -> Result<(), Claim> {
        if len == 0 {
            return Ok(());
        }
        if let Some(other) = self.overlap(start, len) {
            return Err(other);
        }
        self.pages = self.pages.saturating_add(len);
        let mut first = start;
        let mut total = len;
        if let Some((&s, &(l, o))) = self.runs.range(..start).next_back() {
            if o == owner && s.saturating_add(l) == start {
                first = s;
                total = l.saturating_add(len);
            }
        }
        let end = start.saturating_add(len);
        if let Some(&(l, o)) = self.runs.get(&end) {
            if o == owner {
                self.runs.remove(&end);
                total = total.saturating_add(l);
            }
        }
        self.runs.insert(first, (total, owner));
        Ok(())
    }

    /// Gives up claims of `owner` in `[start, start + len)`.
    pub fn release(&mut self, start: u64, len: u64, owner: Ino) {
        let end = start.saturating_add(len);
        let mut at = start;
        while at < end {
            let Some(c) = self.overlap(at, end.saturating_sub(at)) else {
                return;
            };
            let c_end = c.start.saturating_add(c.len);
            if c.owner == owner {
                self.runs.remove(&c.start);
                if c.start < start {
                    self.runs
                        .insert(c.start, (start.saturating_sub(c.start), owner));
                }
                if c_end > end {
                    self.runs.insert(end, (c_end.saturating_sub(end), owner));
                }
                let gone = c_end.min(end).saturating_sub(c.start.max(start));
                self.pages = self.pages.saturating_sub(gone);
            }
            at = c_end.max(at.saturating_add(1));
        }
    }

    /// The first page at or behind `page` that nobody claims.
    #[must_use]
    pub fn next_free(&self, page: u64) -> u64 {
        let mut at = page;
        while let Some(c) = self.overlap(at, 1) {
            at = c.start.saturating_add(c.len);
        }
        at
    }

    /// The last page claimed.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        let (&start, &(len, _)) = self.runs.iter().next_back()?;
        start.saturating_add(len).checked_sub(1)
    }

    /// All claims that share a page with `[start, end)`, cut to it.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = Claim> + '_ {
        let before = self
            .runs
            .range(..start)
            .next_back()
            .map(|(&s, &(l, o))| (s, l, o));
        let rest = if start < end {
            Some(self.runs.range(start..end))
        } else {
            None
        };
        before
            .into_iter()
            .chain(rest.into_iter().flatten().map(|(&s, &(l, o))| (s, l, o)))
            .filter_map(move |(s, l, owner)| {
                let from = s.max(start);
                let to = s.saturating_add(l).min(end);
                (from < to).then(|| Claim {
                    start: from,
                    len: to.saturating_sub(from),
                    owner,
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_owner_are_one() {
        let mut c = Claims::default();
        c.claim(10, 5, 1).unwrap();
        c.claim(20, 5, 1).unwrap();
        c.claim(15, 5, 1).unwrap();
        assert_eq!(c.runs.len(), 1);
        assert_eq!(c.pages(), 15);
        c.claim(25, 1, 2).unwrap();
        assert_eq!(c.runs.len(), 2);
        assert_eq!(c.last(), Some(25));
        assert_eq!(c.next_free(12), 26);
        assert_eq!(c.next_free(9), 9);
    }

    #[test]
    fn overlaps_are_refused_and_change_nothing() {
        let mut c = Claims::default();
        c.claim(10, 5, 1).unwrap();
        for (start, len) in [(10, 5), (9, 2), (14, 1), (0, 100), (12, 1)] {
            assert_eq!(c.claim(start, len, 2).unwrap_err().owner, 1);
        }
        assert_eq!(c.pages(), 5);
        assert_eq!(c.overlap(0, 10), None);
        assert_eq!(c.overlap(15, u64::MAX), None);
    }

    #[test]
    fn release_cuts() {
        let mut c = Claims::default();
        c.claim(10, 10, 1).unwrap();
        c.claim(20, 10, 2).unwrap();
        c.release(12, 10, 1);
        assert_eq!(c.pages(), 12);
        assert_eq!(c.owner(11), Some(1));
        assert_eq!(c.owner(12), None);
        assert_eq!(c.owner(21), Some(2));
        c.claim(13, 2, 3).unwrap();
        c.release(10, 1, 1);
        assert_eq!(c.owner(10), None);
        assert_eq!(c.owner(11), Some(1));
        let all: alloc::vec::Vec<_> = c
            .within(11, 22)
            .map(|c| (c.start, c.len, c.owner))
            .collect();
        assert_eq!(all, [(11, 1, 1), (13, 2, 3), (20, 2, 2)]);
    }
}
