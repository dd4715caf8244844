// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The two programs as they are called.

mod common;

use common::*;
use fs_core::check::{take, Image};
use fs_core::{Host, OwnerKind, Region};
use host::{Access, Spec, UserHost, UserRegion};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const FSCK: &str = env!("CARGO_BIN_EXE_fsck-rpramfs");
const RPRAMFS: &str = env!("CARGO_BIN_EXE_rpramfs");

fn image() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("region");
    let region = format(LEN);
    populate(&region);
    std::fs::write(&path, snapshot(&region)).expect("write");
    (dir, path)
}

fn open(path: &Path) -> UserRegion {
    host::open(&Spec::Path(path.to_path_buf()), Access::ReadWrite).expect("open")
}

fn call(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("run")
}

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[track_caller]
fn fsck(args: &[&str], code: i32) -> String {
    let out = call(FSCK, args);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {}", text(&out));
    text(&out)
}

#[track_caller]
fn inspect(args: &[&str]) -> String {
    let out = call(RPRAMFS, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let out = call(RPRAMFS, &[&["--json"], args].concat());
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    serde_json::from_slice(&out.stdout).expect("json")
}

#[test]
fn exit_codes() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    for args in [
        &["-n", p][..],
        &["-n", "-f", "--data", p],
        &["-p", p],
        &["-a", p],
        &["-y", p],
        &["-y", "-f", "-v", p],
    ] {
        let said = fsck(args, 0);
        assert!(said.contains("sound"), "{args:?}: {said}");
    }
    // An inode is lost: -n and -p leave it, -y does not.
    let off = {
        let host = UserHost::new();
        let region = open(&path);
        let image = Image::open(&region, &host).expect("open");
        let off = image.resolve(b"/small").expect("small").offset;
        region.zero(off, 256).expect("zero");
        off
    };
    let said = fsck(&["-n", p], 4);
    assert!(said.contains(&format!("{off:#x}: inode 2")), "{said}");
    assert!(said.contains("-y repairs"), "{said}");
    fsck(&["-p", "-f", p], 4);
    fsck(&["-y", p], 1);
    fsck(&["-n", p], 0);
    // A system structure is bad: -p finds it at a glance, and may repair it.
    open(&path).zero(4096, 256).expect("zero");
    fsck(&["-n", p], 4);
    let said = fsck(&["-p", p], 1);
    assert!(said.contains("frontier"), "{said}");
    fsck(&["-p", p], 0);
    // Both superblocks in turn.
    open(&path).zero(0, 256).expect("zero");
    fsck(&["-n", p], 4);
    fsck(&["-a", p], 1);
    open(&path).zero(LEN - 4096, 256).expect("zero");
    fsck(&["-y", p], 1);
    fsck(&["-f", "-n", p], 0);
}

#[test]
fn wrong_usage_and_refusals() {
    let (dir, path) = image();
    let p = path.to_str().expect("utf-8");
    fsck(&[], 16);
    fsck(&["-n", "-y", p], 16);
    fsck(&["--nonsense", p], 16);
    fsck(&["-C", "x", p], 16);
    assert!(fsck(&["-V"], 0).contains("fsck.rpramfs"));
    assert!(fsck(&["--help"], 0).contains("Exit status"));
    let said = fsck(&[p], 8);
    assert!(said.contains("no terminal"), "{said}");
    fsck(&["-n", "/nonexistent"], 8);
    // Not ours.
    let other = dir.path().join("other");
    std::fs::write(&other, vec![0; 2 << 20]).expect("write");
    let said = fsck(&["-n", other.to_str().expect("utf-8")], 8);
    assert!(said.contains("no RP-RAMFS"), "{said}");
    let mut ext4 = vec![0; 2 << 20];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(&other, &ext4).expect("write");
    fsck(&["-y", other.to_str().expect("utf-8")], 8);
    assert_eq!(std::fs::read(&other).expect("read"), ext4);
    // Cut short.
    let cut = std::fs::read(&path).expect("read");
    std::fs::write(&other, &cut[..16 << 20]).expect("write");
    fsck(&["-y", other.to_str().expect("utf-8")], 8);
    // System RAM, on a machine that tells about it.
    fsck(&["-n", "0x100000+1M"], 8);
}

#[test]
fn a_mounted_region_is_refused() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    let region = open(&path);
    let me = host::owner::current(OwnerKind::Fuse).expect("owner");
    take(&region, &UserHost::new(), &me, &|_| false).expect("take");
    // Held by a lock.
    assert!(fsck(&["-n", p], 8).contains("process"));
    drop(region);
    // Held by the marker alone.
    let said = fsck(&["-y", p], 8);
    assert!(
        said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
    assert!(inspect(&["stat", p]).contains("FUSE daemon"));
    // A holder that is gone does not matter.
    let region = open(&path);
    let gone = fs_core::Owner {
        start: me.start + 1,
        ..me
    };
    region.store(256, 0).expect("store");
    take(&region, &UserHost::new(), &gone, &|_| false).expect("take");
    drop(region);
    fsck(&["-n", p], 0);
    fsck(&["-y", p], 0);
    assert_eq!(open(&path).load(256).expect("load"), 0);
}

#[test]
fn progress_for_programs() {
    let (_dir, path) = image();
    // As systemd-fsck does it: the child inherits the writing end of a pipe.
    let (reader, writer) = nix::unistd::pipe().expect("pipe");
    let mut reader = std::fs::File::from(reader);
    let script = format!("exec {FSCK} -n -C 3 '{}' 3>&1 >/dev/null", path.display());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdout(writer)
        .spawn()
        .expect("sh");
    let mut lines = String::new();
    reader.read_to_string(&mut lines).expect("read");
    assert!(child.wait().expect("wait").success());
    let mut last = 0;
    for line in lines.lines() {
        let mut words = line.split(' ');
        let mut number = || {
            words
                .next()
                .and_then(|w| w.parse::<u64>().ok())
                .expect(line)
        };
        let (pass, done, total) = (number(), number(), number());
        assert!((1..=5).contains(&pass) && done <= total, "{line}");
        assert!(pass >= last, "{lines}");
        last = pass;
    }
    assert_eq!(last, 5, "{lines}");
    let bar = fsck(&["-n", "-C0", path.to_str().expect("utf-8")], 0);
    assert!(bar.contains("superblock"), "{bar}");
}

#[test]
fn json_of_fsck() {
    let (_dir, path) = image();
    open(&path).zero(8192, 256).expect("zero");
    let p = path.to_str().expect("utf-8");
    let out = call(FSCK, &["-y", "--json", p]);
    assert_eq!(out.status.code(), Some(1));
    let v: Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(v["exit_status"], 1);
    assert_eq!(v["findings"][0]["offset"], 8192);
    assert_eq!(v["findings"][0]["outcome"], "repaired");
    assert!(v["files"].as_u64().expect("files") > 400);
}

#[test]
fn looking_without_mounting() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    let ls = inspect(&["ls", p, "/"]);
    assert!(
        ls.contains("small") && ls.contains("short link -> a/b/c/deep"),
        "{ls}"
    );
    assert!(ls.contains("sealed (sealed)"), "{ls}");
    assert_eq!(
        json(&["ls", p, "/many"]).as_array().expect("array").len(),
        400
    );
    let out = call(RPRAMFS, &["cat", p, "/a/b/c/deep"]);
    assert_eq!(out.stdout, bytes(2, 100_000));
    let out = call(RPRAMFS, &["cat", p, "/sparse"]);
    assert_eq!(out.stdout.len(), 399 * 8192 + 4096);
    assert_eq!(&out.stdout[8192..12288], &bytes(1001, 4096)[..]);
    assert!(out.stdout[4096..8192].iter().all(|b| *b == 0));
    assert!(!call(RPRAMFS, &["cat", p, "/nothing"]).status.success());
    assert!(!call(RPRAMFS, &["cat", p, "/many"]).status.success());
}

#[test]
fn every_structure_can_be_shown() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    let stat = json(&["stat", p]);
    assert_eq!(stat["label"], "a label");
    assert_eq!(stat["size_bytes"], LEN);
    assert_eq!(stat["pending"], 2);
    let many = json(&["ls", p])
        .as_array()
        .expect("array")
        .iter()
        .map(|e| {
            (
                e["name"].as_str().expect("name").to_string(),
                e["ino"].to_string(),
            )
        })
        .collect::<std::collections::BTreeMap<_, _>>();
    let dir = json(&["dump", p, "dir", &many["many"]]);
    let node = dir["nodes"][0].to_string();
    for args in [
        &["superblock"][..],
        &["marker"],
        &["journal"],
        &["system"],
        &["chunk", "0"],
        &["group", "0"],
        &["inode", "1"],
        &["inode", &many["long link"]],
        &["inode", "0x8000000000000002"],
        &["node", &node],
        &["dir", &many["many"]],
        &["extents", &many["sparse"]],
        &["xattr", &many["attributes"]],
        &["page", "0", "--hex"],
        &["page", &node],
    ] {
        let args = [&["dump", p], args].concat();
        assert!(!inspect(&args).is_empty(), "{args:?}");
        assert!(json(&args).is_object(), "{args:?}");
    }
    let x = json(&["dump", p, "xattr", &many["attributes"]]);
    assert_eq!(x["attributes"].as_array().expect("array").len(), 3);
    let e = json(&["dump", p, "extents", &many["sparse"]]);
    assert_eq!(e["records"].as_array().expect("array").len(), 400);
    for args in [&["chunk", "99"][..], &["node", "0"], &["inode", "100000"]] {
        assert!(!call(RPRAMFS, &[&["dump", p], args].concat())
            .status
            .success());
    }
}

#[test]
fn whose_byte_is_it() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    let at = |off: u64| json(&["find-owner", p, &off.to_string()]);
    assert_eq!(at(300)["is"], "mount marker");
    let (file, node, inode, xattr) = {
        let host = UserHost::new();
        let region = open(&path);
        let image = Image::open(&region, &host).expect("open");
        let deep = image.resolve(b"/a/b/c/deep").expect("deep");
        let sparse = image.resolve(b"/sparse").expect("sparse");
        let x = image.resolve(b"/attributes").expect("attributes");
        (
            image.records(&deep).expect("records").0[0].a * 4096,
            image.records(&sparse).expect("records").1.nodes[0] * 4096,
            deep.offset,
            x.xattr * 4096,
        )
    };
    let found = at(file + 5);
    assert_eq!(found["path"], "/a/b/c/deep");
    assert_eq!(found["file_offset"], 5);
    assert_eq!(at(node)["path"], "/sparse");
    assert!(at(node)["is"].as_str().expect("is").contains("tree node"));
    assert_eq!(at(inode)["path"], "/a/b/c/deep");
    assert!(at(xattr)["is"]
        .as_str()
        .expect("is")
        .contains("attribute block"));
    assert_eq!(at(LEN - 8192)["is"], "free: nobody's");
    assert!(!call(RPRAMFS, &["find-owner", p, "1G"]).status.success());
}

#[test]
fn label_and_uuid() {
    let (_dir, path) = image();
    let p = path.to_str().expect("utf-8");
    let id = "123e4567-e89b-42d3-a456-426614174000";
    let v = json(&["tune", p, "-L", "new", "-U", id]);
    assert_eq!(
        (v["label"].as_str(), v["uuid"].as_str()),
        (Some("new"), Some(id))
    );
    fsck(&["-n", p], 0);
    assert_eq!(json(&["stat", p])["label"], "new");
    assert!(!call(RPRAMFS, &["tune", p]).status.success());
    assert!(!call(RPRAMFS, &["tune", p, "-U", "x"]).status.success());
    assert_eq!(json(&["tune", p, "-L", ""])["label"], "");
}

#[test]
fn sealing_needs_a_mount() {
    let (_dir, path) = image();
    for what in ["seal", "unseal", "verify"] {
        let out = call(RPRAMFS, &[what, path.to_str().expect("utf-8")]);
        assert!(!out.status.success());
        assert!(text(&out).contains("mounted RP-RAMFS"), "{}", text(&out));
    }
}

/// Changes both superblocks and makes their checksums right: version at 8, features at 80, 88 and 96.
fn from_the_future(path: &Path, at: usize) {
    let region = open(path);
    for off in [0, LEN - 4096] {
        let mut b = [0; 256];
        region.read(off, &mut b).expect("read");
        b[at] ^= 2;
        b[12..16].fill(0);
        let crc = UserHost::new().crc32(0, &b);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        region.write(off, &b).expect("write");
    }
}

#[test]
fn what_a_newer_version_made_is_told_and_left_alone() {
    for (at, checked, word) in [
        (8, false, "made by a newer version"),
        (
            96,
            false,
            "made by a newer version: unknown feature flags 0x2",
        ),
        (
            88,
            true,
            "made by a newer version: unknown feature flags 0x2",
        ),
    ] {
        let (_dir, path) = image();
        from_the_future(&path, at);
        let before = std::fs::read(&path).expect("read");
        let p = path.to_str().expect("utf-8");
        // What forbids to write does not forbid to look.
        let said = fsck(&["-n", p], if checked { 0 } else { 8 });
        assert!(checked || said.contains(word), "{at}: {said}");
        let said = fsck(&["-y", p], 8);
        assert!(said.contains(word), "{at}: {said}");
        assert!(
            said.contains("use the tools of the version that made it"),
            "{at}: {said}"
        );
        assert!(
            std::fs::read(&path).expect("read") == before,
            "{at}: bytes were changed"
        );
    }
    let (_dir, path) = image();
    from_the_future(&path, 80);
    fsck(&["-y", path.to_str().expect("utf-8")], 0);
    let info = fs_core::probe(&open(&path), &UserHost::new()).expect("probe");
    assert_eq!(info.compat, 2);
}
