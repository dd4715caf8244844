// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `rpramfs ls` and `rpramfs cat`: files of a region that is not mounted.

use crate::render::time;
use fs_core::check::{Image, Inode};
use fs_core::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK};
use host::{Error, Kind, Result, UserHost, UserRegion};
use rpramfs_fsck::region::explain;
use serde_json::{json, Value};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

fn find<'a>(
    region: &'a UserRegion,
    host: &'a UserHost,
    path: &OsStr,
) -> Result<(Image<'a>, Inode)> {
    let image = Image::open(region, host).map_err(|e| explain(region, "superblock", e))?;
    let inode = image
        .resolve(path.as_bytes())
        .map_err(|e| Error::core(format!("{}: {}", region.name(), path.to_string_lossy()), e))?;
    Ok((image, inode))
}

/// The entries of a directory, or just the file that the path names.
pub fn list(region: &UserRegion, host: &UserHost, path: &OsStr) -> Result<Value> {
    let (image, inode) = find(region, host, path)?;
    if inode.kind() != S_IFDIR {
        return Ok(Value::Array(vec![describe(
            &image,
            path.as_bytes(),
            &inode,
        )]));
    }
    let (list, scan) = image
        .entries(&inode)
        .map_err(|e| Error::core(region.name(), e))?;
    if let Some(fault) = scan.faults.first() {
        eprintln!(
            "rpramfs: {}: the directory is damaged at {:#x}: {}; see fsck.rpramfs",
            region.name(),
            fault.offset,
            fault.what
        );
    }
    let mut entries: Vec<_> = list.entries.iter().collect();
    entries.sort_by(|a, b| list.name(a).cmp(list.name(b)));
    Ok(Value::Array(
        entries
            .into_iter()
            .map(|e| match image.inode(e.ino) {
                Ok(inode) => describe(&image, list.name(e), &inode),
                Err(why) => json!({
                    "name": String::from_utf8_lossy(list.name(e)),
                    "ino": e.ino,
                    "state": why.to_string(),
                }),
            })
            .collect(),
    ))
}

fn describe(image: &Image<'_>, name: &[u8], i: &Inode) -> Value {
    json!({
        "name": String::from_utf8_lossy(name),
        "ino": i.ino,
        "mode": i.mode,
        "nlink": i.nlink,
        "uid": i.uid,
        "gid": i.gid,
        "size": i.size,
        "pages": i.pages,
        "mtime": time(i.mtime),
        "sealed": i.flags & fs_core::layout::iflag::SEALED != 0,
        "target": (i.kind() == S_IFLNK)
            .then(|| image.target(i).ok())
            .flatten()
            .map(|t| String::from_utf8_lossy(&t).into_owned()),
    })
}

/// As `ls -l` has it, with the inode number in front.
pub fn as_text(list: &Value) -> String {
    let mut out = String::new();
    let number = |v: &Value, key: &str| v.get(key).and_then(Value::as_u64).unwrap_or(0);
    let word = |v: &Value, key: &str| -> String {
        let text = v.get(key).and_then(Value::as_str).unwrap_or("");
        text.chars()
            .flat_map(|c| {
                if c.is_control() {
                    c.escape_default().collect::<Vec<_>>()
                } else {
                    vec![c]
                }
            })
            .collect()
    };
    for v in list.as_array().into_iter().flatten() {
        if v.get("state").is_some() {
            let _ = writeln!(
                out,
                "{:>8} ?????????? {} ({})",
                number(v, "ino"),
                word(v, "name"),
                word(v, "state")
            );
            continue;
        }
        let target = word(v, "target");
        let _ = writeln!(
            out,
            "{:>8} {} {:>3} {:>5} {:>5} {:>12} {} {}{}{}",
            number(v, "ino"),
            permissions(number(v, "mode") as u32),
            number(v, "nlink"),
            number(v, "uid"),
            number(v, "gid"),
            number(v, "size"),
            word(v, "mtime"),
            word(v, "name"),
            if target.is_empty() {
                String::new()
            } else {
                format!(" -> {target}")
            },
            if v.get("sealed") == Some(&Value::Bool(true)) {
                " (sealed)"
            } else {
                ""
            }
        );
    }
    out
}

fn permissions(mode: u32) -> String {
    let mut out = String::with_capacity(10);
    out.push(match mode & 0o170_000 {
        S_IFREG => '-',
        S_IFDIR => 'd',
        S_IFLNK => 'l',
        S_IFCHR => 'c',
        S_IFBLK => 'b',
        S_IFIFO => 'p',
        S_IFSOCK => 's',
        _ => '?',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// Copies a file to standard output.
pub fn cat(region: &UserRegion, host: &UserHost, path: &OsStr) -> Result<()> {
    let (image, inode) = find(region, host, path)?;
    let name = path.to_string_lossy();
    if inode.kind() != S_IFREG {
        return Err(Error::new(
            Kind::Refused,
            format!("{}: {name}: not a regular file", region.name()),
        ));
    }
    let (_, scan) = image
        .records(&inode)
        .map_err(|e| Error::core(region.name(), e))?;
    if let Some(fault) = scan.faults.first() {
        return Err(Error::new(
            Kind::Filesystem(fs_core::Error::corrupt(fault.offset, "tree node")),
            format!(
                "{}: {name}: its tree is damaged at {:#x}: {}",
                region.name(),
                fault.offset,
                fault.what
            ),
        )
        .hint("fsck.rpramfs saves what can be read"));
    }
    let mut out = io::stdout().lock();
    let mut failed = None;
    image
        .read_file(&inode, &mut |bytes| match out.write_all(bytes) {
            Ok(()) => !rpramfs_fsck::signals::stop(),
            Err(e) => {
                failed = Some(e);
                false
            }
        })
        .map_err(|e| Error::core(format!("{}: {name}", region.name()), e))?;
    match failed {
        Some(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to standard output", &e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_in_ls() {
        assert_eq!(permissions(0o100_644), "-rw-r--r--");
        assert_eq!(permissions(0o041_777), "drwxrwxrwt");
        assert_eq!(permissions(0o104_711), "-rws--x--x");
        assert_eq!(permissions(0o102_644), "-rw-r-Sr--");
    }
}
