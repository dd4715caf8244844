// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! SPEC: how a person names a region.

use crate::{size, uuid, Error, Result};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A run of physical memory, in bytes. Both figures are multiples of 4096, and the end fits in
/// 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhysRange {
    /// Physical address of the first byte.
    pub start: u64,
    /// Length in bytes, not 0.
    pub size: u64,
}

impl PhysRange {
    /// A checked range.
    pub fn new(start: u64, size: u64) -> Result<Self> {
        let range = PhysRange { start, size };
        if size == 0 {
            return Err(Error::usage(format!("{range}: the size is 0")));
        }
        if start % fs_core::PAGE_SIZE != 0 || size % fs_core::PAGE_SIZE != 0 {
            return Err(Error::usage(format!(
                "{range}: address and size must be multiples of 4096"
            )));
        }
        if start.checked_add(size).is_none() {
            return Err(Error::usage(format!(
                "{range}: ends beyond the last 64-bit address"
            )));
        }
        Ok(range)
    }

    /// Address of the first byte behind the range.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Do the two share a byte?
    #[must_use]
    pub const fn overlaps(&self, other: &PhysRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Does `self` hold all of `other`?
    #[must_use]
    pub const fn contains(&self, other: &PhysRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// What the kernel's command line needs, so that the range stays reserved: `memmap=1G$4G`.
    #[must_use]
    pub fn memmap(&self) -> String {
        format!(
            "memmap={}${}",
            size::exact(self.size),
            size::exact(self.start)
        )
    }
}

impl fmt::Display for PhysRange {
    /// As a SPEC: `0x100000000+1G`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}", self.start, size::exact(self.size))
    }
}

/// Where a region is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// A regular file, `/dev/pmemN` or `/dev/daxX.Y`.
    Path(PathBuf),
    /// Physical memory, reached through `/dev/mem`.
    Physical(PhysRange),
    /// The region with this label.
    Label(String),
    /// The region with this UUID.
    Uuid([u8; 16]),
}

impl Spec {
    /// Reads a SPEC:
    ///
    /// - `LABEL=name`, `UUID=…` (quotes around the value are taken off), or in small letters, as
    ///   /etc/fstab has them for mount(8) and so for fsck(8);
    /// - `ADDR+SIZE`, or as the kernel's command line says it, `SIZE$ADDR` and `SIZE!ADDR`, also
    ///   with `memmap=` in front; numbers as [`size::parse`] reads them;
    /// - anything else is a path. A file whose name looks like the above is written `./1G+1G`.
    pub fn parse(text: impl AsRef<OsStr>) -> Result<Self> {
        let os = text.as_ref();
        if os.is_empty() {
            return Err(Error::usage("the region's name is empty"));
        }
        let path = || Ok(Spec::Path(PathBuf::from(os)));
        let is_label = |tag: &[u8]| os.as_bytes().starts_with(tag);
        if os.as_bytes().contains(&b'/') && !is_label(b"LABEL=") && !is_label(b"label=") {
            return path();
        }
        let Some(text) = os.to_str() else {
            return path();
        };
        let value = |upper, lower| text.strip_prefix(upper).or(text.strip_prefix(lower));
        if let Some(label) = value("LABEL=", "label=") {
            let label = unquote(label);
            if label.is_empty() {
                return Err(Error::usage("LABEL= without a label"));
            }
            return Ok(Spec::Label(label.into()));
        }
        if let Some(id) = value("UUID=", "uuid=") {
            return uuid::parse(unquote(id)).map(Spec::Uuid);
        }
        for tag in ["PARTUUID=", "PARTLABEL=", "ID="] {
            if text.starts_with(tag) {
                return Err(Error::usage(format!(
                    "{text}: a region has no {}",
                    tag.trim_end_matches('=')
                ))
                .hint("name it by LABEL=, UUID=, ADDR+SIZE or a path"));
            }
        }
        let (range, named) = match text.strip_prefix("memmap=") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        match split_range(range) {
            Some((start, size)) => {
                PhysRange::new(size::parse(start)?, size::parse(size)?).map(Spec::Physical)
            }
            None if named => Err(Error::usage(format!(
                "{text}: only memmap=SIZE$ADDR and memmap=SIZE!ADDR name a region"
            ))),
            None => path(),
        }
    }
}

/// Takes one pair of quotes off.
fn unquote(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
        {
            return inner;
        }
    }
    text
}

/// Splits a range into (address, size), as text; `None` where it does not look like one. Both
/// sides must start with a digit, so that `c++` or `a!b` stay file names.
fn split_range(text: &str) -> Option<(&str, &str)> {
    let at = text.find(['+', '$', '!'])?;
    let (left, right) = (&text[..at], &text[at + 1..]);
    let number = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
    if !number(left) || !number(right) {
        return None;
    }
    if text[at..].starts_with('+') {
        Some((left, right))
    } else {
        Some((right, left))
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Path(path) => path.display().fmt(f),
            Spec::Physical(range) => range.fmt(f),
            Spec::Label(label) => write!(f, "LABEL={label}"),
            Spec::Uuid(id) => write!(f, "UUID={}", uuid::format(id)),
        }
    }
}

impl std::str::FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Spec::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phys(text: &str) -> PhysRange {
        match Spec::parse(text).expect(text) {
            Spec::Physical(range) => range,
            other => panic!("{text} was read as {other:?}"),
        }
    }

    #[test]
    fn all_spellings_of_one_range() {
        let range = PhysRange {
            start: 1 << 32,
            size: 1 << 30,
        };
        for text in [
            "0x100000000+1G",
            "4G+1G",
            "4294967296+1073741824",
            "4G+0x40000000",
            "1G$4G",
            "1G!4G",
            "memmap=1G$4G",
            "memmap=1G!0x100000000",
        ] {
            assert_eq!(phys(text), range, "{text}");
        }
        assert_eq!(range.to_string(), "0x100000000+1G");
        assert_eq!(phys(&range.to_string()), range);
        assert_eq!(range.memmap(), "memmap=1G$4G");
        assert_eq!(phys(&range.memmap()), range);
    }

    #[test]
    fn bad_ranges_are_usage_errors_not_files() {
        for text in [
            "4G+0",
            "4G+1000",
            "1+4096",
            "4G+1GB",
            "0x+1G1",
            "010+1G",
            "0xfffffffffffff000+8K",
            "4G+1G+1G",
            "memmap=1G@4G",
            "memmap=64M",
            "LABEL=",
            "label=",
            "UUID=x",
            "uuid=x",
            "PARTUUID=1",
            "",
        ] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_rest_is_a_path() {
        for text in [
            "/dev/pmem0",
            "region.img",
            "./4G+1G",
            "c++",
            "a!b",
            "1G",
            "x$1",
            "dir/LABEL=x",
        ] {
            assert_eq!(
                Spec::parse(text).expect(text),
                Spec::Path(text.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn tags() {
        for text in ["LABEL=data", "LABEL=\"data\"", "LABEL='data'", "label=data"] {
            assert_eq!(Spec::parse(text).expect(text), Spec::Label("data".into()));
        }
        assert_eq!(
            Spec::parse("LABEL=a/b").expect("label"),
            Spec::Label("a/b".into())
        );
        assert_eq!(
            Spec::parse("label=a/b").expect("label"),
            Spec::Label("a/b".into())
        );
        let id = "123e4567-e89b-42d3-a456-426614174000";
        for tag in ["UUID", "uuid"] {
            assert_eq!(
                Spec::parse(format!("{tag}={}", id.to_uppercase()))
                    .expect("uuid")
                    .to_string(),
                format!("UUID={id}")
            );
        }
    }

    #[test]
    fn overlap_is_half_open() {
        let a = PhysRange::new(0x1000, 0x1000).expect("a");
        let b = PhysRange::new(0x2000, 0x1000).expect("b");
        let c = PhysRange::new(0x1000, 0x2000).expect("c");
        assert!(!a.overlaps(&b));
        assert!(a.overlaps(&c) && b.overlaps(&c));
        assert!(c.contains(&a) && !a.contains(&c));
    }
}
