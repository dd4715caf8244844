// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The daemon's life and death, and what its ioctls do.

use crate::fixture::{unable, Mount};
use nix::sys::signal::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

#[test]
fn the_daemon_is_left_alone_by_systemd_and_the_mount_named_as_asked() {
    if unable() {
        return;
    }
    let mut mount = Mount::with(64 << 20, "noexec,x-test.ignored,_netdev");
    let line = fs::read(format!("/proc/{}/cmdline", mount.daemon())).expect("cmdline");
    assert_eq!(line.first(), Some(&b'@'));
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    let mine = mounts
        .lines()
        .find(|l| l.starts_with(&format!("{} ", mount.image().display())))
        .expect("source as asked for");
    let fields: Vec<&str> = mine.split(' ').collect();
    assert_eq!(fields[2], "fuse.rpramfs");
    let options: Vec<&str> = fields[3].split(',').collect();
    for expected in [
        "rw",
        "nosuid",
        "nodev",
        "noexec",
        "default_permissions",
        "allow_other",
    ] {
        assert!(options.contains(&expected), "{expected} of {options:?}");
    }
    // It holds nothing that would keep another filesystem busy, and no terminal.
    let pid = mount.daemon();
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd"))
            .expect("cwd")
            .to_str(),
        Some("/")
    );
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("fd");
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    mount.unmount();
}

#[test]
fn nothing_of_the_caller_is_held() {
    if unable() {
        return;
    }
    let mut mount = Mount::unmounted(64 << 20);
    // A pipe that the daemon inherited would never end for its reader.
    let (from, to) = nix::unistd::pipe().expect("pipe");
    mount.mount("");
    drop(to);
    let mut rest = Vec::new();
    File::from(from)
        .read_to_end(&mut rest)
        .expect("the pipe ends");
    assert!(rest.is_empty());
}

#[test]
fn a_killed_daemon_loses_nothing() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    let before = mount.free();
    fs::create_dir(mount.path("d")).expect("mkdir");
    fs::write(mount.path("d/f"), vec![b'k'; 3_000_000]).expect("write");
    // Open and unlinked: gone after the crash, and its space comes back.
    let mut orphan = File::create(mount.path("orphan")).expect("create");
    orphan.write_all(&[1; 5_000_000]).expect("write");
    fs::remove_file(mount.path("orphan")).expect("unlink");
    mount.kill();
    drop(orphan);
    mount.mount("");
    assert!(fs::read(mount.path("d/f")).expect("read") == vec![b'k'; 3_000_000]);
    assert!(!mount.path("orphan").exists());
    fs::remove_file(mount.path("d/f")).expect("unlink");
    fs::remove_dir(mount.path("d")).expect("rmdir");
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    while mount.free() != before {
        assert!(
            std::time::Instant::now() < limit,
            "{} of {before}",
            mount.free()
        );
    }
}

#[test]
fn kills_under_load_are_harmless() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(128 << 20);
    for round in 0..5 {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let dir = mount.path("");
        std::thread::scope(|s| {
            for t in 0..4 {
                let (stop, dir) = (&stop, &dir);
                s.spawn(move || {
                    let mut n = 0u64;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let name = dir.join(format!("{t}-{}", n % 50));
                        // Once the daemon is dead everything fails; that is the point.
                        let _ = fs::write(&name, vec![t as u8; (n as usize * 977) % 200_000]);
                        let _ = fs::rename(&name, dir.join(format!("{t}-moved")));
                        n += 1;
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            mount.signal(Signal::SIGKILL);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        mount.wait_for_end();
        nix::mount::umount2(&mount.path(""), nix::mount::MntFlags::MNT_DETACH).expect("umount");
        mount.mount("");
        for entry in fs::read_dir(mount.path("")).expect("readdir") {
            let entry = entry.expect("entry");
            let name = entry.file_name().into_string().expect("UTF-8");
            let owner = name.as_bytes()[0] - b'0';
            let data = fs::read(entry.path()).expect("read");
            assert!(data.iter().all(|b| *b == owner), "round {round}: {name}");
        }
    }
    for entry in fs::read_dir(mount.path("")).expect("readdir") {
        fs::remove_file(entry.expect("entry").path()).expect("unlink");
    }
}

#[test]
fn sigterm_unmounts() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    fs::write(mount.path("f"), "x").expect("write");
    mount.signal(Signal::SIGTERM);
    mount.wait_for_end();
    mount.gone();
    assert!(!mount.path("f").exists());
    mount.mount("");
    assert_eq!(fs::read(mount.path("f")).expect("read"), b"x");
}

#[test]
fn sigterm_detaches_a_busy_mount_and_serves_its_users() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    let mut file = File::create_new(mount.path("f")).expect("create");
    mount.signal(Signal::SIGTERM);
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    while mount.path("f").exists() {
        assert!(std::time::Instant::now() < limit, "still mounted");
        std::thread::sleep(Duration::from_millis(5));
    }
    mount.gone();
    file.write_all(b"still served").expect("write");
    drop(file);
    mount.wait_for_end();
    mount.mount("");
    assert_eq!(fs::read(mount.path("f")).expect("read"), b"still served");
}

#[test]
fn it_survives_being_moved() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    let elsewhere = tempfile::tempdir().expect("a directory");
    use nix::mount::{mount as sys_mount, MsFlags};
    let none = None::<&str>;
    let old = mount.path("");
    // Moving needs a parent that is not shared.
    let here = old.parent().expect("parent");
    sys_mount(Some(here), here, none, MsFlags::MS_BIND, none).expect("bind");
    sys_mount(none, here, none, MsFlags::MS_PRIVATE, none).expect("private");
    let undo = Undo(here.to_path_buf());
    let moved = sys_mount(Some(&old), elsewhere.path(), none, MsFlags::MS_MOVE, none);
    if moved.is_err() {
        println!("SKIPPED: the mount lies below a shared one and cannot be moved");
        drop(undo);
        return;
    }
    fs::write(elsewhere.path().join("f"), "x").expect("write");
    mount.signal(Signal::SIGTERM);
    mount.wait_for_end();
    mount.gone();
    assert!(!elsewhere.path().join("f").exists(), "found and unmounted");
}

#[test]
fn memory_that_cannot_be_had_is_named() {
    if unable() {
        return;
    }
    // A sparse region on a filesystem smaller than it.
    let place = tempfile::tempdir().expect("a directory");
    nix::mount::mount(
        Some("tmpfs"),
        place.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=8M"),
    )
    .expect("tmpfs");
    let undo = Undo(place.path().to_path_buf());
    let mount = Mount::unmounted_in(place.path(), 64 << 20);
    let child = std::process::Command::new(crate::fixture::PROGRAM)
        .arg(mount.image())
        .arg(mount.path(""))
        .args(["-o", "foreground"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    while std::os::unix::fs::MetadataExt::ino(&fs::metadata(mount.path("")).expect("stat")) != 1 {
        assert!(std::time::Instant::now() < limit, "not mounted");
        std::thread::sleep(Duration::from_millis(10));
    }
    let e = fs::write(mount.path("f"), vec![1; 30 << 20]).expect_err("no memory");
    assert!(
        matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)),
        "{e}"
    );
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("SIGBUS"), "{text}");
    nix::mount::umount2(&mount.path(""), nix::mount::MntFlags::MNT_DETACH).expect("umount");
    drop((mount, undo));
}

struct Undo(std::path::PathBuf);
impl Drop for Undo {
    fn drop(&mut self) {
        // Best effort, after the verdict.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn ioctl(file: &File, number: u32, argument: *mut u8) -> Result<(), i32> {
    // SAFETY: callers pass a buffer as large as the number's size field says, or none for size 0.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), number.into(), argument) };
    if r < 0 {
        return Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    Ok(())
}

#[test]
fn sealed_files_are_immutable_and_changes_are_noticed() {
    if unable() {
        return;
    }
    use fuse_frontend::ioctl::{SEAL, STATS, STATS_SIZE, UNSEAL, VERIFY, VERIFY_STEP};
    let mut mount = Mount::new(64 << 20);
    let marker = b"a run of bytes that is nowhere else in the region: 0x5ea1";
    let mut data = vec![7; 5_000_000];
    data[3_000_000..3_000_000 + marker.len()].copy_from_slice(marker);
    fs::write(mount.path("f"), &data).expect("write");
    let file = File::open(mount.path("f")).expect("open");
    let none = std::ptr::null_mut();
    ioctl(&file, SEAL, none).expect("seal");
    let e = OpenOptions::new()
        .write(true)
        .open(mount.path("f"))
        .and_then(|f| f.write_all_at(b"x", 0))
        .expect_err("sealed");
    assert_eq!(e.raw_os_error(), Some(libc::EPERM));
    ioctl(&file, VERIFY, none).expect("whole");
    let mut at = 0u64;
    let mut steps = 0;
    while at != u64::MAX {
        ioctl(&file, VERIFY_STEP, (&raw mut at).cast()).expect("piece");
        steps += 1;
    }
    assert!((3..=4).contains(&steps), "{steps} windows");
    let mut stats = [0; STATS_SIZE];
    ioctl(&file, STATS, stats.as_mut_ptr()).expect("stats");
    assert!(stats.iter().any(|b| *b != 0));
    assert_eq!(ioctl(&file, 0x1234_5678, none), Err(libc::ENOTTY));
    drop(file);

    mount.unmount();
    let mut image = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.image())
        .expect("open");
    let mut bytes = Vec::new();
    image.read_to_end(&mut bytes).expect("read");
    let place = bytes
        .windows(marker.len())
        .position(|w| w == marker)
        .expect("the data is in the region");
    image
        .seek(std::io::SeekFrom::Start(place as u64))
        .expect("seek");
    image.write_all(b"b").expect("scribble");
    drop(image);
    mount.mount("");
    let file = File::open(mount.path("f")).expect("open");
    assert_eq!(ioctl(&file, VERIFY, none), Err(libc::EUCLEAN));
    ioctl(&file, UNSEAL, none).expect("unseal");
    OpenOptions::new()
        .write(true)
        .open(mount.path("f"))
        .and_then(|f| f.write_all_at(b"x", 0))
        .expect("writable again");
}

#[test]
fn a_damaged_inode_does_not_hide_its_neighbours() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    for name in ["before", "victim", "after"] {
        fs::write(mount.path(name), name).expect("write");
    }
    // A time that is found nowhere else marks the inode's sector.
    let t = nix::sys::time::TimeSpec::new(0x1234, 0x0567_89ab);
    nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        &mount.path("victim"),
        &t,
        &t,
        nix::sys::stat::UtimensatFlags::FollowSymlink,
    )
    .expect("utimens");
    mount.unmount();
    let nanos = 0x1234_i64 * 1_000_000_000 + 0x0567_89ab;
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.image())
        .expect("open");
    let mut bytes = Vec::new();
    (&image).read_to_end(&mut bytes).expect("read");
    let mut found = 0;
    for at in (0..bytes.len() - 8).step_by(8) {
        if bytes[at..at + 8] == nanos.to_le_bytes() {
            image.write_all_at(&[0xff], at as u64).expect("scribble");
            found += 1;
        }
    }
    assert!(found > 0, "the inode was not found in the region");
    mount.mount("");
    let mut names: Vec<String> = fs::read_dir(mount.path(""))
        .expect("readdir")
        .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, ["after", "before", "victim"]);
    let e = fs::metadata(mount.path("victim")).expect_err("damaged");
    assert_eq!(e.raw_os_error(), Some(libc::EUCLEAN));
    assert_eq!(fs::read(mount.path("after")).expect("read"), b"after");
    let e = fs::write(mount.path("new"), "x").expect_err("read-only from now on");
    assert_eq!(e.raw_os_error(), Some(libc::EROFS));
}
