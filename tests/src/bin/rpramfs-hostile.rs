// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Damaged filesystems, mounted by the kernel module: walked, read, written, unmounted. Runs in a
//! guest that it may take down.
//!
//! `rpramfs-hostile ADDRESS FIRST COUNT DIR` does images FIRST to FIRST + COUNT - 1 of the corruption
//! suite, in the region at ADDRESS, on the directory DIR.

use fs_core::Region;
use nix::mount::{mount, umount, MsFlags};
use nix::sys::statvfs::{statvfs, FsFlags};
use rpramfs_tests::anatomy::Kind;
use rpramfs_tests::harm::{Cases, Done};
use rpramfs_tests::record::Scratch;
use rpramfs_tests::specimen::specimens;
use rpramfs_tests::tree::{Body, Node};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::exit;

/// What the module claims: specimens are no larger.
const REGION: u64 = 2 << 20;
/// No tree of a specimen has more names on a path, and no directory more entries; a damaged one that
/// loops or never ends is cut here.
const DEPTH: usize = 12;
const ENTRIES: usize = 5000;

/// Has the mount at a place this option?
fn shows(root: &Path, option: &str) -> std::io::Result<bool> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1).is_some_and(|at| Path::new(at) == root);
        let options = fields.nth(1).unwrap_or_default();
        at && options.split(',').any(|o| o == option)
    }))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| {
        let word = args.get(at).map(|w| w.trim_start_matches("0x"));
        let radix = if at == 0 { 16 } else { 10 };
        word.and_then(|w| u64::from_str_radix(w, radix).ok())
    };
    let (Some(address), Some(first), Some(count), Some(dir)) =
        (number(0), number(1), number(2), args.get(3))
    else {
        eprintln!("usage: rpramfs-hostile ADDRESS FIRST COUNT DIR");
        exit(2);
    };
    let all = specimens();
    let cases = Cases::new(&all);
    let mut sums = Sums::default();
    let mut faults = Vec::new();
    let damaged = (first..first + count).filter_map(|i| Some((i, cases.pick(i)?)));
    for (i, done) in damaged {
        // An oops is to be told from its neighbours.
        let _ = fs::write("/dev/kmsg", format!("image {i}: {done}\n"));
        let mut one = Ordeal {
            done: &done,
            root: PathBuf::from(dir),
            faults: Vec::new(),
            corrupt: false,
        };
        let went = one
            .place(address)
            .and_then(|()| one.undergo(address, i, &mut sums));
        if let Err(e) = went {
            one.faults.push(format!("cannot go on: {e}"));
        }
        sums.images += 1;
        faults.extend(one.faults.iter().map(|f| format!("image {i}: {done}: {f}")));
    }
    println!(
        "{} images, {} refused, {} read-only, {} with errors, {} faults",
        sums.images,
        sums.refused,
        sums.read_only,
        sums.with_errors,
        faults.len()
    );
    faults.iter().take(40).for_each(|f| println!("FAULT {f}"));
    exit(i32::from(!faults.is_empty()));
}

#[derive(Default)]
struct Sums {
    images: u64,
    refused: u64,
    read_only: u64,
    with_errors: u64,
}

struct Ordeal<'a> {
    done: &'a Done<'a>,
    root: PathBuf,
    faults: Vec<String>,
    /// Somebody was told EUCLEAN.
    corrupt: bool,
}

impl Ordeal<'_> {
    /// Puts the damaged bytes where the module will find them.
    fn place(&self, address: u64) -> io::Result<()> {
        let image = &self.done.specimen.image;
        let scratch = Scratch::new(image);
        self.done.apply(&scratch);
        let mut bytes = vec![0; REGION as usize];
        let len = scratch.len().min(REGION) as usize;
        scratch.read(0, &mut bytes[..len]).expect("inside");
        let memory = OpenOptions::new().write(true).open("/dev/mem")?;
        memory.write_all_at(&bytes, address)
    }

    fn undergo(&mut self, address: u64, i: u64, sums: &mut Sums) -> io::Result<()> {
        let source = format!("{address:#x}+{}M", REGION >> 20);
        let none = None::<&str>;
        let flags = MsFlags::empty();
        if let Err(e) = mount(Some(&*source), &self.root, Some("rpramfs"), flags, none) {
            sums.refused += 1;
            let superblock = matches!(self.done.block.kind, Kind::Superblock | Kind::Backup);
            // Of a region that is longer the other superblock is not at the end.
            let alone = self.done.specimen.image.mem.len() < REGION;
            let other = superblock && (self.done.passes() || alone);
            if !(e == nix::Error::EUCLEAN
                || other && [nix::Error::EINVAL, nix::Error::EOPNOTSUPP].contains(&e))
            {
                self.faults.push(format!("mount: {e}"));
            }
            return Ok(());
        }
        let root = self.root.clone();
        self.walk(&root, 0);
        self.write_everywhere(i);
        let read_only = statvfs(&self.root)?.flags().contains(FsFlags::ST_RDONLY)
            || shows(&self.root, "emergency_ro")?;
        sums.read_only += u64::from(read_only);
        sums.with_errors += u64::from(self.corrupt);
        if self.corrupt && !read_only {
            self.faults
                .push("something is corrupt, and the mount is writable".into());
        }
        umount(&self.root)?;
        Ok(())
    }

    /// What is not damaged can be read.
    fn is_whole(&self, ino: u64) -> bool {
        let concerned = self.done.concerned();
        concerned.is_some_and(|c| !c.contains(&ino))
    }

    /// If it can be read, it is what it was.
    fn is_known(&self, ino: u64) -> bool {
        self.done.is_plain() || self.is_whole(ino)
    }

    fn told<T>(&mut self, what: &Path, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(0);
                self.corrupt |= errno == libc::EUCLEAN;
                if !EXPECTED.contains(&errno) {
                    self.faults.push(format!("{}: {e}", what.display()));
                }
                None
            }
        }
    }

    fn walk(&mut self, path: &Path, depth: usize) {
        let Some(meta) = self.told(path, fs::symlink_metadata(path)) else {
            return;
        };
        let specimen = self.done.specimen;
        let known = specimen.tree.get(&meta.ino());
        let (whole, strict) = (self.is_whole(meta.ino()), self.is_known(meta.ino()));
        let before = self.faults.len();
        let corrupt = std::mem::take(&mut self.corrupt);
        self.xattrs(path);
        if meta.is_dir() {
            self.directory(path, depth);
        } else if meta.is_symlink() {
            self.told(path, fs::read_link(path));
        } else if meta.is_file() {
            let read = self.told(path, read(path));
            if let (true, Some(node), Some(read)) = (strict, known, read) {
                self.compare(path, node, &meta, &read);
            }
        }
        // Of a directory's entries any may be damaged.
        if whole && !meta.is_dir() && self.corrupt && self.faults.len() == before {
            let fault = format!("{} is undamaged, and cannot be read", path.display());
            self.faults.push(fault);
        }
        self.corrupt |= corrupt;
    }

    fn directory(&mut self, path: &Path, depth: usize) {
        let Some(entries) = self.told(path, fs::read_dir(path)) else {
            return;
        };
        let mut names = Vec::new();
        for entry in entries.take(ENTRIES) {
            let Some(entry) = self.told(path, entry) else {
                break;
            };
            names.push(entry.file_name());
        }
        if depth < DEPTH {
            for name in names {
                self.walk(&path.join(name), depth + 1);
            }
        }
    }

    fn compare(&mut self, path: &Path, node: &Node, meta: &fs::Metadata, pages: &Pages) {
        let Body::File(want) = &node.body else {
            return;
        };
        let (mode, size) = (node.mode, node.size);
        if (meta.mode(), meta.size()) != (mode, size) || want != pages {
            let fault = format!("{} is undamaged, and not what it was", path.display());
            self.faults.push(fault);
        }
    }

    fn xattrs(&mut self, path: &Path) {
        let c_path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
        let mut names = vec![0u8; 65_536];
        // SAFETY: a C string, and as many writable bytes as is said.
        let n =
            unsafe { libc::llistxattr(c_path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        let Some(n) = self.told(path, result(n)) else {
            return;
        };
        let mut value = vec![0u8; 65_536];
        for name in names[..n].split_inclusive(|byte| *byte == 0) {
            // SAFETY: as above; every name ends with a NUL, as the kernel hands them out.
            let n = unsafe {
                libc::lgetxattr(
                    c_path.as_ptr(),
                    name.as_ptr().cast(),
                    value.as_mut_ptr().cast(),
                    value.len(),
                )
            };
            self.told(path, result(n));
        }
    }

    /// A little of everything in some directories and files, the damaged ones among them.
    fn write_everywhere(&mut self, i: u64) {
        let concerned = self.done.concerned();
        let wanted =
            |ino: u64| concerned.as_ref().is_some_and(|c| c.contains(&ino)) || ino % 4 == i / 4 % 4;
        for path in paths(&self.root) {
            let Some(meta) = self.told(&path, fs::symlink_metadata(&path)) else {
                continue;
            };
            if !wanted(meta.ino()) {
                continue;
            }
            self.set_xattr(&path);
            if meta.is_dir() {
                let (new, moved) = (path.join("new"), self.root.join("moved"));
                self.told(&new, File::create(&new));
                self.told(&new, fs::create_dir(path.join("newdir")));
                self.told(
                    &new,
                    std::os::unix::fs::symlink("t".repeat(500), path.join("l")),
                );
                self.told(&new, fs::rename(&new, &moved));
                self.told(&new, fs::hard_link(&moved, path.join("link")));
                self.told(&new, fs::remove_dir(path.join("newdir")));
            } else if meta.is_file() {
                self.overwrite(&path, meta.size());
                self.told(&path, fs::rename(&path, path.with_extension("renamed")));
                self.told(&path, fs::remove_file(path.with_extension("renamed")));
            }
        }
    }

    fn overwrite(&mut self, path: &Path, size: u64) {
        let Some(mut file) = self.told(path, OpenOptions::new().write(true).open(path)) else {
            return;
        };
        self.told(path, file.write_all(&[1; 9000]));
        self.told(path, file.write_all_at(&[2; 100], size));
        self.told(path, file.set_len(size / 2));
        self.told(path, file.sync_all());
    }

    fn set_xattr(&mut self, path: &Path) {
        let c_path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
        let value = [3u8; 3000];
        // SAFETY: C strings, and as many bytes as is said.
        let n = unsafe {
            libc::lsetxattr(
                c_path.as_ptr(),
                c"trusted.new".as_ptr(),
                value.as_ptr().cast(),
                value.len(),
                0,
            )
        };
        self.told(path, result(n as isize));
    }
}

/// Nothing of a damaged filesystem may answer anything else: metadata is corrupt, memory is bad, the
/// mount is read-only by now, the region full, a file sealed; or the damage is one of names.
const EXPECTED: &[i32] = &[
    libc::EUCLEAN,
    libc::EIO,
    libc::EROFS,
    libc::ENOSPC,
    libc::EPERM,
    libc::ENOENT,
    libc::EEXIST,
    libc::ENOTEMPTY,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::ELOOP,
    libc::EMLINK,
    libc::EFBIG,
    libc::EINVAL,
    libc::ENODATA,
    libc::ERANGE,
    libc::ESTALE,
    libc::ENAMETOOLONG,
    // The name of an attribute, in a namespace that no kernel knows.
    libc::EOPNOTSUPP,
];

/// What holds a byte other than zero, by page.
type Pages = BTreeMap<u64, Vec<u8>>;

/// A whole file, but of a giant one only what is not a hole, and not without end.
fn read(path: &Path) -> io::Result<Pages> {
    use std::os::fd::AsRawFd;
    const MOST: usize = 4096;
    let file = File::open(path)?;
    let mut pages = Pages::new();
    let mut at = 0;
    while pages.len() < MOST {
        // SAFETY: a plain call on an open file.
        let data = unsafe { libc::lseek(file.as_raw_fd(), at, libc::SEEK_DATA) };
        match result(data as isize) {
            Ok(data) => at = data as i64 / 4096 * 4096,
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => break,
            Err(e) => return Err(e),
        }
        let mut page = vec![0; 4096];
        if file.read_at(&mut page, at as u64)? == 0 {
            break;
        }
        if page.iter().any(|byte| *byte != 0) {
            pages.insert(at as u64 / 4096, page);
        }
        at += 4096;
    }
    Ok(pages)
}

fn result(n: isize) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Every path there is, as far as it can be read.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut all = vec![root.to_owned()];
    let mut next = 0;
    while next < all.len() && all.len() < ENTRIES {
        let dir = all[next].clone();
        next += 1;
        if dir.components().count() > DEPTH || !fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir())
        {
            continue;
        }
        let entries = fs::read_dir(&dir).into_iter().flatten();
        all.extend(entries.flatten().map(|entry| entry.path()));
    }
    all
}
