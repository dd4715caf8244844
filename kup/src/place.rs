// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Where checkpoints are: on the RP-RAMFS that is mounted, unless somebody says otherwise.

use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A mount, as /proc/self/mountinfo tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub on: PathBuf,
    pub kind: String,
    pub source: String,
}

/// The types of a mounted RP-RAMFS: by the module, by FUSE.
const KINDS: [&str; 2] = ["rpramfs", "fuse.rpramfs"];
/// Below the root of the region.
const NAME: &str = "kup";

/// The directory of checkpoints.
///
/// # Errors
/// No RP-RAMFS is mounted, or several are.
pub fn find(said: Option<&Path>) -> Result<PathBuf> {
    if let Some(dir) = said {
        return Ok(dir.to_owned());
    }
    let mounts = mounts()?;
    match &mounts[..] {
        [mount] => Ok(mount.on.join(NAME)),
        [] => bail!(
            "no RP-RAMFS is mounted: `mount -t rpramfs label=... /mnt` mounts one that was made \
             (mkfs.rpramfs); --dir names any other directory"
        ),
        several => bail!(
            "several RP-RAMFS are mounted ({}): choose one by --dir MOUNTPOINT/{NAME}",
            several
                .iter()
                .map(|mount| mount.on.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

/// All RP-RAMFS that are mounted.
///
/// # Errors
/// /proc is not mounted.
pub fn mounts() -> Result<Vec<Mount>> {
    const PATH: &str = "/proc/self/mountinfo";
    Ok(parse(&fs::read_to_string(PATH).context(PATH)?))
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let on = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next()?);
        KINDS.contains(&kind).then(|| Mount {
            on: PathBuf::from(unescape(on)),
            kind: kind.to_owned(),
            source: unescape(source),
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The kernel writes blanks and backslashes in octal, as in `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                all.push(char::from(code));
                all.push_str(&part[3..]);
            }
            None => {
                all.push('\\');
                all.push_str(part);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo() {
        let text = "22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
                    36 1 0:35 / /mnt/my\\040state rw,noatime - rpramfs 0x100000000+1G rw\n";
        let want = Mount {
            on: PathBuf::from("/mnt/my state"),
            kind: "rpramfs".to_owned(),
            source: "0x100000000+1G".to_owned(),
        };
        assert_eq!(parse(text), [want]);
    }
}
