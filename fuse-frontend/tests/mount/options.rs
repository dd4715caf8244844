// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Options, refusals and exit codes.

use crate::fixture::{umount, unable, Mount, PROGRAM};
use fs_core::Host;
use host::UserHost;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn refused(mount: &Mount, args: &[&str], code: i32, word: &str) {
    let output = mount.run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(text.contains(word), "{args:?}: {text}");
}

#[test]
fn refusals_have_the_exit_codes_of_mount() {
    if unable() {
        return;
    }
    let mut mount = Mount::unmounted(64 << 20);
    refused(&mount, &["-o", "frobnicate"], 1, "frobnicate");
    refused(&mount, &["-o", "kernel"], 32, "no physical memory");
    refused(&mount, &["extra"], 1, "too many");
    let nowhere = |spec: &str, dir: &str| {
        let output = Command::new(PROGRAM)
            .args([spec, dir])
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = nowhere("/no/such/file", "/");
    assert_eq!(code, Some(32), "{text}");
    assert!(text.contains("/no/such/file"), "{text}");
    let (code, text) = nowhere("LABEL=nobody-has-this-label", "/");
    assert_eq!(code, Some(32), "{text}");
    let (code, text) = nowhere(mount.image().to_str().expect("UTF-8"), "/no/such/dir");
    assert_eq!(code, Some(32), "{text}");
    let (code, text) = nowhere("/etc/hostname", mount.path("").to_str().expect("UTF-8"));
    assert_eq!(code, Some(32), "{text}");

    mount.mount("");
    refused(&mount, &[], 32, "");
    // Nothing was harmed by that.
    fs::write(mount.path("f"), "x").expect("write");
}

#[test]
fn an_unformatted_region_is_refused_untouched() {
    if unable() {
        return;
    }
    let mount = Mount::unmounted(64 << 20);
    let junk = vec![0x5a; 8 << 20];
    fs::write(mount.image(), &junk).expect("write");
    refused(&mount, &[], 32, "mkfs.rpramfs");
    assert!(fs::read(mount.image()).expect("read") == junk, "written to");
    assert!(
        fs::metadata(mount.path("")).expect("stat").ino() != 1,
        "mounted"
    );
}

#[test]
fn help_teaches_and_version_is_there() {
    let help = Command::new(PROGRAM).arg("--help").output().expect("runs");
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    for word in ["SPEC", "fstab", "noallow_other", "threads=", "mkfs.rpramfs"] {
        assert!(text.contains(word), "{word}");
    }
    let version = Command::new(PROGRAM).arg("-V").output().expect("runs");
    assert!(version.status.success() && !version.stdout.is_empty());
}

#[test]
fn fake_does_everything_but_the_mount() {
    if unable() {
        return;
    }
    let mount = Mount::unmounted(64 << 20);
    let before = fs::read(mount.image()).expect("read");
    let output = mount.run(&["-f", "-v"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("would be mounted"));
    assert!(
        fs::read(mount.image()).expect("read") == before,
        "written to"
    );
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    assert!(!mounts.contains(mount.image().to_str().expect("UTF-8")));
}

#[test]
fn read_only_means_it() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    fs::write(mount.path("f"), "x").expect("write");
    mount.unmount();
    mount.mount("ro");
    assert_eq!(fs::read(mount.path("f")).expect("read"), b"x");
    let e = fs::write(mount.path("g"), "x").expect_err("read-only");
    assert_eq!(e.raw_os_error(), Some(libc::EROFS));
    mount.unmount();
    mount.mount("");
    // mount -o remount,ro and back.
    assert!(mount.run(&["-o", "remount,ro"]).status.success());
    let e = fs::write(mount.path("g"), "x").expect_err("read-only");
    assert_eq!(e.raw_os_error(), Some(libc::EROFS));
    assert!(mount.run(&["-o", "remount,rw"]).status.success());
    fs::write(mount.path("g"), "x").expect("writable");
    // What is no mount of ours is left alone.
    fs::create_dir(mount.path("d")).expect("mkdir");
    for dir in [mount.path("d").as_path(), std::path::Path::new("/proc")] {
        let output = Command::new(PROGRAM)
            .args(["x".as_ref(), dir.as_os_str()])
            .args(["-o", "remount,ro"])
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(1), "{}", dir.display());
    }
}

/// As an image on a read-only medium is looked into, left by a crash as it may be.
#[test]
fn what_can_only_be_read_is_mounted_read_only() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    fs::write(mount.path("f"), "x").expect("write");
    mount.kill();
    let image = mount.image();
    let before = fs::read(&image).expect("read");
    // A bind mount of the file over itself, then read-only.
    bind(&image, MsFlags::MS_BIND);
    bind(
        &image,
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
    );
    let refused = mount.run(&[]);
    let explained = String::from_utf8_lossy(&refused.stderr).into_owned();
    let mounted = mount.run(&["-o", "ro"]);
    let read = fs::read(mount.path("f"));
    let written = fs::write(mount.path("g"), "x");
    umount(&mount.path(""));
    mount.wait_for_end();
    umount2(&image, MntFlags::MNT_DETACH).expect("umount the bind mount");
    assert_eq!(refused.status.code(), Some(32), "{explained}");
    assert!(explained.contains("-o ro"), "{explained}");
    assert!(
        mounted.status.success(),
        "{}",
        String::from_utf8_lossy(&mounted.stderr)
    );
    assert_eq!(read.expect("read"), b"x");
    let e = written.expect_err("read-only");
    assert_eq!(e.raw_os_error(), Some(libc::EROFS));
    assert!(fs::read(&image).expect("read") == before, "written to");
}

fn bind(path: &std::path::Path, flags: MsFlags) {
    mount::<_, _, str, str>(Some(path), path, None, flags, None).expect("bind mount");
}

#[test]
fn the_root_directory_is_dressed_and_stays_so() {
    if unable() {
        return;
    }
    let mut mount = Mount::with(64 << 20, "uid=12,gid=34,mode=1770");
    let check = |mount: &Mount| {
        let root = fs::metadata(mount.path("")).expect("stat");
        assert_eq!(
            (root.uid(), root.gid(), root.mode() & 0o7777),
            (12, 34, 0o1770)
        );
    };
    check(&mount);
    mount.unmount();
    mount.mount("threads=1");
    check(&mount);
    fs::write(mount.path("f"), "one thread is enough").expect("write");
    assert_eq!(fs::read_dir(mount.path("")).expect("readdir").count(), 1);
}

#[test]
fn foreground_stays_and_ends_with_the_mount() {
    if unable() {
        return;
    }
    let mount = Mount::unmounted(64 << 20);
    let mut child = Command::new(PROGRAM)
        .arg(mount.image())
        .arg(mount.path(""))
        .args(["-o", "foreground"])
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    let limit = Instant::now() + Duration::from_secs(20);
    while fs::write(mount.path("f"), "x").is_err()
        || fs::metadata(mount.path("")).expect("stat").ino() != 1
    {
        assert!(Instant::now() < limit, "not mounted");
        assert!(child.try_wait().expect("wait").is_none(), "ended early");
        std::thread::sleep(Duration::from_millis(10));
    }
    umount(&mount.path(""));
    assert!(child.wait().expect("wait").success());
}

/// Changes both superblocks and makes their checksums right: version at 8, features at 88 and 96.
fn from_the_future(mount: &Mount, at: usize) {
    let path = mount.image();
    let mut bytes = fs::read(&path).expect("read");
    let backup = bytes.len() - 4096;
    for off in [0, backup] {
        let b = &mut bytes[off..off + 256];
        b[at] ^= 2;
        b[12..16].fill(0);
        let crc = UserHost::new().crc32(0, b);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(&path, bytes).expect("write");
}

#[test]
fn what_a_newer_version_made_is_refused_untouched() {
    if unable() {
        return;
    }
    for (at, word, readable) in [
        (8, "made by a newer version", false),
        (
            96,
            "made by a newer version: unknown feature flags 0x2",
            false,
        ),
        (
            88,
            "made by a newer version: unknown feature flags 0x2",
            true,
        ),
    ] {
        let mut mount = Mount::unmounted(8 << 20);
        from_the_future(&mount, at);
        let before = fs::read(mount.image()).expect("read");
        refused(&mount, &[], 32, word);
        if !readable {
            refused(&mount, &["-o", "ro"], 32, word);
        }
        assert!(
            fs::read(mount.image()).expect("read") == before,
            "{at}: written to"
        );
        if readable {
            mount.mount("ro");
            assert!(fs::read_dir(mount.path("")).expect("read").next().is_none());
            let made = fs::write(mount.path("f"), "x").expect_err("read-only");
            assert_eq!(made.raw_os_error(), Some(libc::EROFS));
        }
    }
}
