// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The command line.

use clap::Parser;
use host::{size, uuid, Error, Result, Spec};
use std::ffi::OsString;
use std::str::FromStr;

const EXAMPLES: &str = "\
Where SPEC is one of
  0x100000000+1G     physical memory: address and size (also 4G+1G, '1G$4G')
  /dev/dax0.0        a device-dax device
  /dev/pmem0         a persistent memory device
  FILE               a regular file; with SIZE it is created, or made longer
  LABEL=x, UUID=x    a region that was formatted before (needs -f)

Examples
  Memory that the kernel leaves alone (memmap=1G$4G on its command line):
      mkfs.rpramfs -L state 4G+1G
      mount -t rpramfs label=state /mnt
  To try it without reserving anything:
      mkfs.rpramfs /tmp/region 256M
      mount -t rpramfs /tmp/region /mnt
  What would happen?
      mkfs.rpramfs -n 4G+1G

System RAM, ranges without memory or held by a driver, and whatever is mounted are refused,
-f or not. A filesystem that is recognised is refused without -f.

Exit status: 0 done, 8 refused or failed, 16 wrong usage.";

/// Makes an RP-RAMFS: a filesystem in memory that outlives the kernel.
#[derive(Debug, Parser)]
#[command(name = "mkfs.rpramfs", bin_name = "mkfs.rpramfs", version, after_help = EXAMPLES)]
pub struct Args {
    /// The region to format
    pub spec: OsString,

    /// Size of a regular file that is created, or made longer (64M, 1G)
    pub size: Option<String>,

    /// Label, up to 32 bytes, to mount by label=
    #[arg(short = 'L', long, value_name = "LABEL")]
    pub label: Option<Label>,

    /// UUID instead of a random one
    #[arg(short = 'U', long, value_name = "UUID")]
    pub uuid: Option<Uuid>,

    /// Extended options, separated by commas: root_owner[=UID:GID], root_mode=OCTAL
    #[arg(short = 'E', value_name = "OPTIONS", value_delimiter = ',')]
    pub extended: Vec<Extended>,

    /// Keep room for the kernel's struct pages (1.6 % and 4 MiB), so that DAX costs no other memory
    #[arg(long)]
    pub struct_pages: bool,

    /// Write nothing; say what would be made
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Say nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Overwrite a filesystem that is recognised
    #[arg(short, long)]
    pub force: bool,

    /// Print the result as JSON
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
}

/// A label: UTF-8 without control characters, zero-padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label(pub [u8; 32]);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text.chars().any(char::is_control) {
            return Err("control characters cannot be part of a label".into());
        }
        let mut bytes = [0; 32];
        bytes
            .get_mut(..text.len())
            .ok_or_else(|| format!("{} bytes are too long, 32 at most", text.len()))?
            .copy_from_slice(text.as_bytes());
        Ok(Label(bytes))
    }
}

/// A UUID, or the word `random`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl FromStr for Uuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "random" {
            return uuid::random().map(Uuid);
        }
        match uuid::parse(text)? {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => {
                Err(Error::usage("a UUID of zeros names nothing"))
            }
            id => Ok(Uuid(id)),
        }
    }
}

/// One of the extended options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// Owner and group of the root directory.
    RootOwner(u32, u32),
    /// Permissions of the root directory.
    RootMode(u32),
}

impl FromStr for Extended {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match (name, value) {
            // As in mke2fs: without a value, whoever runs this.
            ("root_owner", None) => Ok(Extended::RootOwner(
                nix::unistd::getuid().as_raw(),
                nix::unistd::getgid().as_raw(),
            )),
            ("root_owner", Some(value)) => {
                let ids = value
                    .split_once(':')
                    .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
                match ids {
                    // The highest id means "leave it alone" to chown(2).
                    Some((uid, gid)) if uid != u32::MAX && gid != u32::MAX => {
                        Ok(Extended::RootOwner(uid, gid))
                    }
                    _ => Err("root_owner needs numbers: root_owner=1000:1000".into()),
                }
            }
            ("root_mode", Some(value)) => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Extended::RootMode(mode)),
                _ => Err("root_mode needs an octal number up to 7777: root_mode=0755".into()),
            },
            _ => Err("unknown; there are root_owner[=UID:GID] and root_mode=OCTAL".into()),
        }
    }
}

impl Args {
    /// The region, and the size where one is given.
    pub fn target(&self) -> Result<(Spec, Option<u64>)> {
        let spec = Spec::parse(&self.spec)?;
        let Some(text) = &self.size else {
            return Ok((spec, None));
        };
        if !matches!(spec, Spec::Path(_)) {
            return Err(
                Error::usage(format!("{spec} {text}: SIZE is for regular files only"))
                    .hint("the size of physical memory is part of its name: ADDR+SIZE"),
            );
        }
        let bytes = size::parse(text)?;
        if bytes == 0 || bytes % fs_core::PAGE_SIZE != 0 || i64::try_from(bytes).is_err() {
            return Err(Error::usage(format!(
                "{text}: the size of a file must be a multiple of 4096, and less than 8 EiB"
            )));
        }
        Ok((spec, Some(bytes)))
    }

    /// What the filesystem shall be.
    pub fn options(&self) -> Result<fs_core::FormatOptions> {
        let mut options = fs_core::FormatOptions {
            uuid: match self.uuid {
                Some(Uuid(id)) => id,
                None => uuid::random()?,
            },
            label: self.label.unwrap_or_default().0,
            uid: 0,
            gid: 0,
            mode: 0o755,
            struct_pages: self.struct_pages,
        };
        for extended in &self.extended {
            match *extended {
                Extended::RootOwner(uid, gid) => (options.uid, options.gid) = (uid, gid),
                Extended::RootMode(mode) => options.mode = mode,
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn labels_have_their_limit() {
        assert_eq!("x".repeat(32).parse::<Label>().expect("32").0, [b'x'; 32]);
        assert!("x".repeat(33).parse::<Label>().is_err());
        assert!("ü".repeat(17).parse::<Label>().is_err());
        assert!("a\nb".parse::<Label>().is_err());
    }

    #[test]
    fn extended_options() {
        assert_eq!(
            "root_owner=1000:100".parse(),
            Ok(Extended::RootOwner(1000, 100))
        );
        assert_eq!("root_mode=01777".parse(), Ok(Extended::RootMode(0o1777)));
        for bad in [
            "root_owner=me",
            "root_owner=1",
            "root_owner=1:4294967295",
            "root_mode",
            "root_mode=8",
            "root_mode=10000",
            "stride=4",
            "",
        ] {
            assert!(bad.parse::<Extended>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_for_files() {
        let target = |args: &[&str]| {
            Args::try_parse_from([&["mkfs.rpramfs"], args].concat())
                .expect("parse")
                .target()
        };
        assert_eq!(target(&["f", "1M"]).expect("file").1, Some(1 << 20));
        assert!(target(&["4G+1G", "1G"]).is_err());
        assert!(target(&["f", "0"]).is_err());
        assert!(target(&["f", "5000"]).is_err());
    }
}
