// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What was made, for people and for programs.

use fs_core::{FormatOptions, SuperInfo};
use host::{resolve, size, uuid, PhysRange};
use serde::Serialize;
use std::fmt;

/// The result of a run. Sizes are in bytes.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The region, as mount(8) takes it.
    pub spec: String,
    /// Nothing was written.
    pub dry_run: bool,
    /// Version of the layout.
    pub version: u32,
    /// UUID of the filesystem.
    pub uuid: String,
    /// Its label, empty for none.
    pub label: String,
    /// All that the filesystem covers.
    pub size: u64,
    /// What is left for files and their metadata.
    pub usable: u64,
    /// Superblocks, journal and allocation tables.
    pub metadata: u64,
    /// Kept for struct pages.
    pub struct_pages: u64,
    /// Journal slots.
    pub slots: u64,
    /// The root directory.
    pub root: Root,
    /// Where it lies in physical memory.
    #[serde(serialize_with = "range")]
    pub physical: Option<PhysRange>,
    /// What each kernel's command line needs.
    pub memmap: Option<String>,
    /// Stores reach a page cache first, not the memory.
    pub page_cached: bool,
}

/// Owner and permissions of the root directory.
#[derive(Debug, Serialize)]
pub struct Root {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, in octal.
    pub mode: String,
}

fn range<S: serde::Serializer>(
    range: &Option<PhysRange>,
    s: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Json {
        start: u64,
        size: u64,
    }
    range
        .map(|r| Json {
            start: r.start,
            size: r.size,
        })
        .serialize(s)
}

impl Report {
    /// The report of a filesystem; where it lies is filled in by the caller.
    pub fn new(spec: String, info: &SuperInfo, options: &FormatOptions, dry_run: bool) -> Self {
        let (_, struct_pages) = info.struct_pages();
        Report {
            spec,
            dry_run,
            version: info.version,
            uuid: uuid::format(&info.uuid),
            label: resolve::label(info),
            size: info.size,
            usable: info.size.saturating_sub(info.metadata() + struct_pages),
            metadata: info.metadata(),
            struct_pages,
            slots: info.geometry.slots,
            root: Root {
                uid: options.uid,
                gid: options.gid,
                mode: format!("{:04o}", options.mode),
            },
            physical: None,
            memmap: None,
            page_cached: false,
        }
    }
}

/// A word that a shell leaves as it is, quoted where needed.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.dry_run {
            "would get (nothing was written)"
        } else {
            "now holds"
        };
        writeln!(
            f,
            "{} {done} an empty RP-RAMFS of {}",
            self.spec,
            size::human(self.size)
        )?;
        writeln!(f, "  UUID     {}", self.uuid)?;
        if !self.label.is_empty() {
            writeln!(f, "  label    {}", self.label)?;
        }
        // In thousandths, so that small overheads do not show as 0.
        let share = u128::from(self.metadata) * 100_000 / u128::from(self.size.max(1));
        writeln!(
            f,
            "  usable   {} ({}.{:03} % metadata)",
            size::human(self.usable),
            share / 1000,
            share % 1000
        )?;
        if self.struct_pages > 0 {
            writeln!(
                f,
                "  kept     {} for the kernel's struct pages",
                size::human(self.struct_pages)
            )?;
        }
        writeln!(
            f,
            "  root     owner {}:{}, mode {}",
            self.root.uid, self.root.gid, self.root.mode
        )?;
        if let Some(memmap) = &self.memmap {
            writeln!(
                f,
                "\nIt lives as long as every kernel is booted with\n  {memmap}\n\
                 (in /etc/default/grub: {})",
                memmap.replace('$', r"\\\$")
            )?;
        }
        if self.page_cached {
            writeln!(
                f,
                "\nNote: stores to a block device reach its page cache first. Unmount, or sync, \
                 before the kernel is\nreplaced; better, use a device-dax namespace or \
                 ADDR+SIZE of memory reserved with memmap=SIZE$ADDR."
            )?;
        }
        let by_tag = self.physical.is_some() && !self.label.is_empty();
        let source = if by_tag {
            // In capitals mount(8) would look for it among block devices.
            format!("label={}", self.label)
        } else {
            self.spec.clone()
        };
        write!(f, "\nMount it: mount -t rpramfs {} DIR", shell(&source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(shell("0x100000000+1G"), "0x100000000+1G");
        assert_eq!(shell("LABEL=a b"), "'LABEL=a b'");
        assert_eq!(shell("it's"), r"'it'\''s'");
        assert_eq!(shell(""), "''");
    }
}
