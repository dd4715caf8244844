// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What of a process's memory still waits in the FOAM file.

use std::collections::BTreeMap;

/// A stretch of memory and where it lies in the file. The two differ once it was moved by mremap(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
}

impl Span {
    fn part(self, start: u64, end: u64) -> Span {
        let start = start.max(self.start);
        Span {
            start,
            end: end.min(self.end),
            offset: self.offset + (start - self.start),
        }
    }

    fn bytes(self) -> u64 {
        self.end - self.start
    }
}

/// Disjoint spans by address.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    by_start: BTreeMap<u64, Span>,
    bytes: u64,
}

impl Spans {
    /// The sum of all spans.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Nothing may be there yet.
    pub fn insert(&mut self, span: Span) {
        debug_assert!(span.start < span.end);
        debug_assert!(self.first_in(span.start, span.end).is_none());
        self.bytes += span.bytes();
        self.by_start.insert(span.start, span);
    }

    /// What begins at or behind `start` or reaches over it, and begins before `end`.
    fn first_in(&self, start: u64, end: u64) -> Option<Span> {
        if let Some((_, span)) = self.by_start.range(..=start).next_back() {
            if start < span.end && start < end {
                return Some(*span);
            }
        }
        if start >= end {
            return None;
        }
        self.by_start
            .range(start..end)
            .next()
            .map(|(_, span)| *span)
    }

    /// What waits from `addr` on, without what lies before it in the same span.
    pub fn at_or_behind(&self, addr: u64) -> Option<Span> {
        self.first_in(addr, u64::MAX)
            .map(|span| span.part(addr, u64::MAX))
    }

    /// What waits at `addr`, without what lies before it in the same span.
    pub fn at(&self, addr: u64) -> Option<Span> {
        self.at_or_behind(addr).filter(|span| span.start == addr)
    }

    /// Takes out all there is between `start` and `end`.
    pub fn cut(&mut self, start: u64, end: u64) -> Vec<Span> {
        let mut out = Vec::new();
        while let Some(span) = self.first_in(start, end) {
            self.by_start.remove(&span.start);
            if span.start < start {
                self.by_start.insert(span.start, span.part(0, start));
            }
            if end < span.end {
                self.by_start.insert(end, span.part(end, u64::MAX));
            }
            let part = span.part(start, end);
            self.bytes -= part.bytes();
            out.push(part);
        }
        out
    }

    /// The memory at `from` is at `to` now; what was at `to` is no more.
    pub fn shift(&mut self, from: u64, to: u64, len: u64) {
        let moved = self.cut(from, from.saturating_add(len));
        self.cut(to, to.saturating_add(len));
        for span in moved {
            let start = span.start - from + to;
            self.insert(Span {
                start,
                end: start + span.bytes(),
                offset: span.offset,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(u64, u64, u64)]) -> Spans {
        let mut spans = Spans::default();
        for &(start, end, offset) in list {
            spans.insert(Span { start, end, offset });
        }
        spans
    }

    fn list(spans: &Spans) -> Vec<(u64, u64, u64)> {
        let list: Vec<_> = spans
            .by_start
            .values()
            .map(|s| (s.start, s.end, s.offset))
            .collect();
        assert_eq!(spans.bytes(), list.iter().map(|s| s.1 - s.0).sum::<u64>());
        list
    }

    #[test]
    fn cuts_a_hole() {
        let mut s = spans(&[(10, 20, 110), (20, 30, 20), (40, 50, 40)]);
        let out = s.cut(12, 14);
        assert_eq!(
            out,
            [Span {
                start: 12,
                end: 14,
                offset: 112
            }]
        );
        assert_eq!(
            list(&s),
            [(10, 12, 110), (14, 20, 114), (20, 30, 20), (40, 50, 40)]
        );
        assert_eq!(s.cut(13, 41).len(), 3);
        assert_eq!(list(&s), [(10, 12, 110), (41, 50, 41)]);
        assert!(
            s.cut(0, 10).is_empty() && s.cut(50, u64::MAX).is_empty() && s.cut(12, 12).is_empty()
        );
        s.cut(0, u64::MAX);
        assert!(s.is_empty() && s.bytes() == 0);
    }

    #[test]
    fn finds_what_is_next() {
        let s = spans(&[(10, 20, 110), (40, 50, 40)]);
        assert_eq!(s.at(9), None);
        assert_eq!(s.at(20), None);
        assert_eq!(
            s.at(15),
            Some(Span {
                start: 15,
                end: 20,
                offset: 115
            })
        );
        assert_eq!(
            s.at_or_behind(20),
            Some(Span {
                start: 40,
                end: 50,
                offset: 40
            })
        );
        assert_eq!(s.at_or_behind(50), None);
    }

    #[test]
    fn a_move_takes_the_place_of_what_was_there() {
        let mut s = spans(&[(10, 20, 10), (30, 40, 30), (100, 120, 100)]);
        s.shift(15, 105, 10);
        assert_eq!(
            list(&s),
            [
                (10, 15, 10),
                (30, 40, 30),
                (100, 105, 100),
                (105, 110, 15),
                (115, 120, 115)
            ]
        );
        s.shift(105, 0, 10);
        assert_eq!(
            list(&s),
            [
                (0, 5, 15),
                (10, 15, 10),
                (30, 40, 30),
                (100, 105, 100),
                (115, 120, 115)
            ]
        );
    }

    #[test]
    fn agrees_with_a_table() {
        let mut table = [None; 64];
        let mut s = Spans::default();
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..20_000 {
            let (start, len) = (random(48), random(16) + 1);
            match random(3) {
                0 => {
                    let offset = 1000 + random(1000);
                    s.cut(start, start + len);
                    s.insert(Span {
                        start,
                        end: start + len,
                        offset,
                    });
                    (0..len).for_each(|i| table[(start + i) as usize] = Some(offset + i));
                }
                1 => {
                    s.cut(start, start + len);
                    (0..len).for_each(|i| table[(start + i) as usize] = None);
                }
                _ => {
                    let to = random(48);
                    if to + len <= start || start + len <= to {
                        s.shift(start, to, len);
                        for i in 0..len {
                            table[(to + i) as usize] = table[(start + i) as usize].take();
                        }
                    }
                }
            }
            for addr in 0..64 {
                assert_eq!(s.at(addr).map(|span| span.offset), table[addr as usize]);
            }
            list(&s);
        }
    }
}
