// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A set of addresses, as sorted ranges that neither touch nor overlap.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of page-aligned addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// End by start.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    #[must_use]
    pub fn new() -> Ranges {
        Ranges::default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of bytes in the set.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.iter().map(|r| r.end - r.start).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(start, end)| *start..*end)
    }

    /// Adds a range; one that is empty changes nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        while let Some((&s, &e)) = self.ends.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.ends.remove(&s);
        }
        self.ends.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        while let Some((&s, &e)) = self.ends.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.ends.remove(&s);
            if s < range.start {
                self.ends.insert(s, range.start);
            }
            if e > range.end {
                self.ends.insert(range.end, e);
            }
        }
    }

    /// Is any of a range in the set?
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        let last = self.ends.range(..range.end).next_back();
        range.start < range.end && last.is_some_and(|(_, &end)| end > range.start)
    }

    /// Is all of a range in the set?
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.start >= range.end
            || self
                .ends
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &e)| e >= range.end)
    }

    /// The parts of a range that are in the set.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ends.range(..=range.start).next_back();
        let from = first.map_or(range.start, |(&s, _)| s);
        let to = range.end.max(from);
        self.ends.range(from..to).filter_map(move |(&s, &e)| {
            let part = s.max(range.start)..e.min(range.end);
            (part.start < part.end).then_some(part)
        })
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Ranges) -> Ranges {
        let mut left = self.clone();
        for range in other.iter() {
            left.remove(range);
        }
        left
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Ranges {
        let mut set = Ranges::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every operation against a plain set of numbers.
    #[test]
    fn like_a_set() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let (mut set, mut model) = (Ranges::new(), BTreeSet::new());
            for _ in 0..60 {
                let start = next(100);
                let range = start..start + next(20);
                if next(3) == 0 {
                    set.remove(range.clone());
                    model.retain(|n| !range.contains(n));
                } else {
                    set.insert(range.clone());
                    model.extend(range);
                }
                let flat: BTreeSet<u64> = set.iter().flatten().collect();
                assert_eq!(flat, model);
                let mut touching = set.iter().zip(set.iter().skip(1));
                assert!(touching.all(|(a, b)| a.end < b.start));
                let start = next(100);
                let asked = start..start + next(30);
                assert_eq!(
                    set.contains(&asked),
                    asked.clone().all(|n| model.contains(&n))
                );
                let within: Vec<u64> = set.within(asked.clone()).flatten().collect();
                let want: Vec<u64> = model
                    .iter()
                    .copied()
                    .filter(|n| asked.contains(n))
                    .collect();
                assert_eq!(within, want, "{asked:?} of {set:?}");
            }
        }
    }
}
