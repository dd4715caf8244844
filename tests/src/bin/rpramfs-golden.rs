// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Makes golden images that are not there yet, and unpacks those that are: see `tests/golden/README.md`.

use fs_core::{
    Error, Fallocate, FormatOptions, Fs, Ino, NewInode, SetAttr, XattrMode, ROOT_INO, S_IFBLK,
    S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
};
use rpramfs_tests::checker;
use rpramfs_tests::crash::apply;
use rpramfs_tests::fixture::{drain, mount, mount_as, options};
use rpramfs_tests::golden;
use rpramfs_tests::host::{TestHost, EPOCH};
use rpramfs_tests::record::{Image, Recorder, Scratch};
use rpramfs_tests::script::{
    fallocate, file, link, mkdir, mknod, rename, symlink, tmpfile, touch, truncate, unlink,
    WHITEOUT,
};
use serde_json::{json, Value};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

type Tape = Recorder<Scratch>;
type World<'a> = Fs<&'a Tape, TestHost>;
type R0 = Result<(), Error>;

struct Golden {
    name: &'static str,
    about: &'static str,
    bytes: u64,
    struct_pages: bool,
    fill: fn(&World<'_>) -> R0,
    /// What is cut short; without, the region was unmounted.
    cut: Option<fn(&World<'_>) -> R0>,
}

/// The hash key of names comes from it: names whose hashes are equal were looked for.
const SEED: u64 = 0x676f_6c64;

const GOLDEN: &[Golden] = &[
    Golden {
        name: "v1-plain",
        about: "A few files and directories; unmounted.",
        bytes: 8 << 20,
        struct_pages: false,
        fill: plain,
        cut: None,
    },
    Golden {
        name: "v1-struct-pages",
        about: "As v1-plain, made with room for struct pages.",
        bytes: 16 << 20,
        struct_pages: true,
        fill: plain,
        cut: None,
    },
    Golden {
        name: "v1-large",
        about: "1 TiB, two top summaries; two groups are open.",
        bytes: 1 << 40,
        struct_pages: false,
        fill: large,
        cut: None,
    },
    Golden {
        name: "v1-crashed",
        about: "Stopped while the second transaction of a truncation was copied home: it is committed, \
                the intent is there, orphans are in every pending set, the mount marker is held.",
        bytes: 16 << 20,
        struct_pages: false,
        fill: orphans,
        cut: Some(|w| truncate(w, "long", 100)),
    },
    Golden {
        name: "v1-everything",
        about: "Every structure of the format; unmounted.",
        bytes: 256 << 20,
        struct_pages: false,
        fill: everything,
        cut: None,
    },
];

/// Lines that compress well and are all different.
fn lines(tag: &str, len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n| format!("{tag}, line {n}\n").into_bytes());
    lines.take(len).collect()
}

fn put(w: &World<'_>, ino: Ino, at: u64, data: &[u8]) -> R0 {
    let n = w.write(ino, at, data)?;
    (n == data.len()).then_some(()).ok_or(Error::NoSpace)
}

fn text_file(w: &World<'_>, path: &str, len: usize) -> Result<Ino, Error> {
    let ino = touch(w, path)?;
    put(w, ino, 0, &lines(path, len))?;
    Ok(ino)
}

fn attribute(w: &World<'_>, ino: Ino, name: &str, len: usize) -> R0 {
    w.setxattr(ino, name.as_bytes(), &lines(name, len), XattrMode::Either)
}

fn plain(w: &World<'_>) -> R0 {
    text_file(w, "hello", 13)?;
    w.host().tick();
    mkdir(w, "dir")?;
    text_file(w, "dir/three pages", 12_000)?;
    touch(w, "dir/empty")?;
    w.host().tick();
    symlink(w, "link", 20)?;
    link(w, "hello", "dir/hard")?;
    let big = text_file(w, "dir/big", 100_000)?;
    attribute(w, big, "user.comment", 30)
}

/// Extents of a page each, in no order: `step` has no divisor in common with `n`.
fn pieces(w: &World<'_>, ino: Ino, n: u64, step: u64) -> R0 {
    (0..n).try_for_each(|i| {
        let at = i * step % n * 12_288;
        put(w, ino, at, format!("{i}").as_bytes())
    })
}

fn large(w: &World<'_>) -> R0 {
    plain(w)?;
    touch(w, "reserved")?;
    let keep = Fallocate::Allocate { keep_size: false };
    fallocate(w, "reserved", keep, 0, 1200 << 20)?;
    rpramfs_tests::script::write(w, "reserved", 1100 << 20, 5000, 5)
}

fn orphans(w: &World<'_>) -> R0 {
    plain(w)?;
    let long = touch(w, "long")?;
    pieces(w, long, 240, 11)?;
    for i in 0..60 {
        let name = format!("gone {i}");
        text_file(w, &name, 100 * (i + 1))?;
        unlink(w, &name)?;
    }
    let sealed = text_file(w, "sealed", 50_000)?;
    w.seal(sealed)?;
    unlink(w, "sealed")?;
    let nameless = tmpfile(w, "")?;
    put(w, nameless, 0, b"nobody will read this")
}

/// Names of the directory `names` whose hashes are equal under the key that comes from [`SEED`].
const EQUAL_HASHES: &[&str] = &["16b83809", "1f918a28", "04593bcb", "0f3aeccf"];

fn everything(w: &World<'_>) -> R0 {
    plain(w)?;
    names(w)?;
    kinds(w)?;
    contents(w)?;
    attributes(w)?;
    // Free inodes, and a number used again.
    for i in 0..20 {
        let name = format!("gone {i}");
        file(w, &name, 50)?;
        w.evict(unlink(w, &name)?)?;
    }
    touch(w, "second life")?;
    let whiteout = touch(w, "moved away")?;
    rename(w, "moved away", "dir/moved here", WHITEOUT)?;
    times(w, whiteout, [-1, i64::MIN, i64::MAX])
}

fn times(w: &World<'_>, ino: Ino, [atime, mtime, ctime]: [i64; 3]) -> R0 {
    let set = SetAttr {
        atime: Some(atime),
        mtime: Some(mtime),
        ctime: Some(ctime),
        ..SetAttr::default()
    };
    w.setattr(ino, &set).map(drop)
}

fn names(w: &World<'_>) -> R0 {
    let dir = mkdir(w, "names")?;
    let target = touch(w, "names/target")?;
    let mut all: Vec<Vec<u8>> = (0..1500)
        .map(|i| format!("{i:04}").into_bytes())
        .chain(EQUAL_HASHES.iter().map(|n| n.as_bytes().to_vec()))
        .collect();
    all.extend([vec![b'n'; 255], b"a".to_vec(), b"-".to_vec(), vec![0xff; 3]]);
    all.extend([b"new\nline".to_vec(), "\u{fc}\u{df}".into(), b" ".to_vec()]);
    for name in &all {
        w.link(target, dir, name)?;
    }
    // Dead bytes in the heaps of names.
    for i in (0..1500).step_by(7) {
        unlink(w, &format!("names/{i:04}"))?;
    }
    let mut path = String::from("deep");
    mkdir(w, &path)?;
    for _ in 0..40 {
        path.push_str("/d");
        mkdir(w, &path)?;
    }
    text_file(w, &format!("{path}/bottom"), 10).map(drop)
}

fn kinds(w: &World<'_>) -> R0 {
    mkdir(w, "kinds")?;
    let kinds = [S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, S_IFREG, S_IFDIR];
    for (i, kind) in (0u32..).zip(kinds) {
        for bits in [0o000, 0o777, 0o1777, 0o2755, 0o4755, 0o6711] {
            mknod(w, &format!("kinds/{i} {bits:o}"), kind | bits)?;
        }
    }
    let new = NewInode {
        mode: S_IFBLK | 0o660,
        uid: u32::MAX - 1,
        gid: u32::MAX - 1,
        rdev: 0xffff_fff0_ffff_ff01,
    };
    w.create(ROOT_INO, b"kinds device", &new)?;
    for len in [1, 111, 112, 113, 4095] {
        symlink(w, &format!("kinds/link {len}"), len)?;
    }
    let new = NewInode {
        mode: S_IFLNK | 0o777,
        ..NewInode::default()
    };
    let target = b"/no UTF-8: \xff\xfe";
    w.symlink(ROOT_INO, b"kinds link", target, &new).map(drop)
}

fn contents(w: &World<'_>) -> R0 {
    mkdir(w, "files")?;
    let keep = Fallocate::Allocate { keep_size: true };
    let grow = Fallocate::Allocate { keep_size: false };
    for len in [1, 4095, 4096, 4097, 100_000] {
        text_file(w, &format!("files/{len}"), len)?;
    }
    // Extents in a tree of three levels: single unwritten pages, from the back, so that leaves stay half full.
    let many = touch(w, "files/extents")?;
    for page in (0..19_600).rev() {
        w.fallocate(many, grow, page * 8192, 4096)?;
    }
    put(w, many, 5000 * 8192 + 10, b"written")?;
    // In a tree of two, in no order.
    let comb = touch(w, "files/comb")?;
    pieces(w, comb, 300, 7)?;
    // Four, in the inode.
    let four = touch(w, "files/four")?;
    for i in 0..4 {
        put(w, four, i * 8192, &lines("four", 4096))?;
    }
    let sparse = touch(w, "files/sparse")?;
    put(w, sparse, 0, b"begin")?;
    put(w, sparse, 1 << 40, b"middle")?;
    put(w, sparse, 1 << 47, b"end")?;
    touch(w, "files/largest")?;
    truncate(w, "files/largest", i64::MAX as u64)?;
    touch(w, "files/reserved")?;
    fallocate(w, "files/reserved", grow, 0, 3 << 20)?;
    text_file(w, "files/reserved behind", 10)?;
    fallocate(w, "files/reserved behind", keep, 4096, 1 << 20)?;
    text_file(w, "files/zeroed", 40_000)?;
    let zero = Fallocate::ZeroRange { keep_size: true };
    fallocate(w, "files/zeroed", zero, 5000, 20_000)?;
    text_file(w, "files/punched", 40_000)?;
    fallocate(w, "files/punched", Fallocate::PunchHole, 5000, 20_000)?;
    text_file(w, "files/cut", 40_000)?;
    truncate(w, "files/cut", 10_001)?;
    text_file(w, "files/raised", 4000)?;
    truncate(w, "files/raised", 50_000)?;
    // Sealed: windows in the seal's inode, and in a tree.
    for (name, size) in [("files/sealed", 5 << 20), ("files/sealed long", 40 << 20)] {
        let ino = text_file(w, name, 9000)?;
        put(w, ino, size - 100, &lines(name, 100))?;
        w.seal(ino)?;
    }
    let empty = touch(w, "files/sealed empty")?;
    w.seal(empty)
}

fn attributes(w: &World<'_>) -> R0 {
    let ino = text_file(w, "attributes", 10)?;
    for name in ["user.a", "trusted.b", "security.c"] {
        attribute(w, ino, name, 40)?;
    }
    attribute(w, ino, "user.empty", 0)?;
    for (i, len) in [1025, 4096, 4097, 20_000, 65_536].iter().enumerate() {
        attribute(w, ino, &format!("user.elsewhere {i}"), *len)?;
    }
    let long = format!("user.{}", "n".repeat(250));
    attribute(w, ino, &long, 3)?;
    let full = mkdir(w, "attributes of a directory")?;
    for i in 0..30 {
        attribute(w, full, &format!("user.{i}"), 100)?;
    }
    let acl = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
    let name = b"system.posix_acl_access";
    w.setxattr(full, name, &acl, XattrMode::Create)?;
    attribute(w, ROOT_INO, "user.root", 5)
}

/// The bytes of an image, as they are when its making ends.
fn make(golden: &Golden) -> Result<(Image, TestHost), String> {
    let host = TestHost::new(SEED);
    let tape = Recorder::new(Scratch::zeroed(golden.bytes));
    let mut label = [0; 32];
    label[..golden.name.len()].copy_from_slice(golden.name.as_bytes());
    let options = FormatOptions {
        label,
        struct_pages: golden.struct_pages,
        ..options()
    };
    let failed = |e: Error| format!("{}: {e}", golden.name);
    fs_core::format(&tape, &host, &options).map_err(failed)?;
    let fs = mount(&tape, host.clone()).map_err(failed)?;
    (golden.fill)(&fs).map_err(failed)?;
    host.set_now(EPOCH + 1_000_000_000);
    let Some(cut) = golden.cut else {
        fs.unmount().map_err(failed)?;
        return Ok((tape.inner().image(), host));
    };
    let mut image = tape.inner().image();
    tape.start();
    cut(&fs).map_err(failed)?;
    let log = tape.stop();
    // docs/LAYOUT.md, section 9: the commit word is at 16 of a slot's header.
    let geo = fs.info().geometry;
    let is_commit = |off: u64| (0..geo.slots).any(|s| off == geo.slot_offset(s) + 16);
    let commits: Vec<usize> = (0..log.stores.len())
        .filter(|&i| is_commit(log.stores[i].off))
        .collect();
    // Set, cleared, set: behind the third comes what is copied home.
    let [_, _, set, cleared, ..] = commits[..] else {
        return Err(format!("{}: fewer than two transactions", golden.name));
    };
    apply(&mut image, &log.stores[..(set + cleared) / 2]);
    Ok((image, host))
}

fn describe(golden: &Golden, image: &Image, host: &TestHost) -> Result<Value, String> {
    let tape = Scratch::new(image);
    checker::clean(&tape, host)?;
    let info = fs_core::probe(&tape, host).map_err(|e| e.to_string())?;
    let fs = mount_as(&tape, host.reborn(), *b"the next boot id").map_err(|e| e.to_string())?;
    let stats = fs.stats();
    drain(&fs)?;
    Ok(json!({
        "about": golden.about,
        "superblock": golden::superblock(&info),
        "replayed": stats.replayed,
        "pending": stats.pending,
        "contents": golden::contents(&fs)?,
    }))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}

fn new(name: &str) -> Result<(), String> {
    let golden = GOLDEN
        .iter()
        .find(|g| g.name == name)
        .ok_or(format!("nothing is known of an image {name}"))?;
    for path in [golden::image_path(name), golden::manifest_path(name)] {
        if path.exists() {
            return Err(format!(
                "{} exists. What an earlier version wrote cannot be made again: give the new image a \
                 name of its own",
                path.display()
            ));
        }
    }
    let (image, host) = make(golden)?;
    let manifest = describe(golden, &image, &host)?;
    let packed = golden::pack(&image).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_string_pretty(&manifest).map_err(|e| e.to_string())?;
    text.push('\n');
    write_new(&golden::image_path(name), &packed)?;
    write_new(&golden::manifest_path(name), text.as_bytes())?;
    println!("{name}: {} bytes", packed.len());
    Ok(())
}

fn unpack(name: &str, to: &str) -> Result<(), String> {
    golden::unpack(
        &golden::image_path(name),
        |size| {
            let file = File::create_new(to)?;
            file.set_len(size)?;
            Ok(file)
        },
        |file, page, bytes| file.write_all_at(bytes, page * 4096),
    )
    .map(drop)
    .map_err(|e| format!("{name}: {e}"))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["new", name] => new(name),
        ["unpack", name, file] => unpack(name, file),
        _ => {
            println!("usage: rpramfs-golden new NAME | unpack NAME FILE\n");
            GOLDEN
                .iter()
                .for_each(|g| println!("{:16} {}", g.name, g.about));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rpramfs-golden: {e}");
            ExitCode::FAILURE
        }
    }
}
