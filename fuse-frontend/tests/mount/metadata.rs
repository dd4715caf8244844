// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Names, attributes, permissions.

use crate::fixture::{unable, Mount};
use nix::errno::Errno;
use nix::sys::stat::{mknod, utimensat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use rpramfs_load::xattr;
use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    chown, symlink, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NOBODY: u32 = 65534;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Runs a shell command as nobody; the mount point's parents must let it through.
fn as_nobody(script: &str, at: &Path) -> bool {
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(at)
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .expect("sh")
        .success()
}

/// The test's directory is root's own; nobody must get through to the mount.
fn open_way(mount: &Mount) {
    let mnt = mount.path("");
    chmod(mnt.parent().expect("parent"), 0o755);
}

/// An ACL's value: (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const ANY: u32 = u32::MAX;

#[test]
fn names_of_all_kinds_are_made_and_listed() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    fs::write(mount.path("file"), "x").expect("file");
    fs::create_dir(mount.path("dir")).expect("dir");
    symlink("file", mount.path("link")).expect("symlink");
    fs::hard_link(mount.path("file"), mount.path("hard")).expect("link");
    let node = |name: &str, kind, device| {
        mknod(
            &mount.path(name),
            kind,
            Mode::from_bits_truncate(0o644),
            device,
        )
        .expect("mknod");
    };
    node("fifo", SFlag::S_IFIFO, 0);
    node("char", SFlag::S_IFCHR, libc::makedev(1, 3));
    node("block", SFlag::S_IFBLK, libc::makedev(4000, 1_000_000));
    // As CRIU does with --stream and lazy pages.
    let listener = UnixListener::bind(mount.path("socket")).expect("bind");
    std::thread::scope(|s| {
        s.spawn(|| {
            let (mut client, _) = listener.accept().expect("accept");
            client.write_all(b"hello").expect("write");
        });
        let mut text = String::new();
        let mut client = UnixStream::connect(mount.path("socket")).expect("connect");
        client.read_to_string(&mut text).expect("read");
        assert_eq!(text, "hello");
    });
    drop(listener);

    for again in [false, true] {
        let names: HashSet<String> = fs::read_dir(mount.path(""))
            .expect("readdir")
            .map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"))
            .collect();
        let expected = [
            "file", "dir", "link", "hard", "fifo", "char", "block", "socket",
        ];
        assert_eq!(names, expected.map(str::to_owned).into());
        let meta = |name: &str| fs::symlink_metadata(mount.path(name)).expect("stat");
        assert_eq!(meta("file").ino(), meta("hard").ino());
        assert_eq!(meta("file").nlink(), 2);
        assert!(meta("link").is_symlink() && meta("dir").is_dir());
        assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket());
        assert_eq!(meta("char").rdev(), libc::makedev(1, 3));
        assert_eq!(meta("block").rdev(), libc::makedev(4000, 1_000_000));
        assert_eq!(
            fs::read_link(mount.path("link")).expect("readlink"),
            Path::new("file")
        );
        if !again {
            mount.unmount();
            mount.mount("");
        }
    }
}

#[test]
fn names_have_their_limits() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 << 20);
    let long = "n".repeat(255);
    fs::write(mount.path(&long), "x").expect("255 bytes");
    let error = |r: std::io::Result<()>| r.expect_err("too long").raw_os_error();
    let longer = mount.path(&"n".repeat(256));
    assert_eq!(error(fs::write(&longer, "x")), Some(libc::ENAMETOOLONG));
    assert_eq!(error(fs::create_dir(&longer)), Some(libc::ENAMETOOLONG));
    assert_eq!(
        error(fs::rename(mount.path(&long), &longer)),
        Some(libc::ENAMETOOLONG)
    );
    assert_eq!(
        error(fs::metadata(&longer).map(|_| ())),
        Some(libc::ENAMETOOLONG)
    );
    let target = "t".repeat(4095);
    symlink(&target, mount.path("link")).expect("4095 bytes");
    assert_eq!(
        fs::read_link(mount.path("link")).expect("readlink"),
        Path::new(&target)
    );
}

#[test]
fn a_name_that_was_missed_can_be_made() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 << 20);
    fs::create_dir(mount.path("d")).expect("mkdir");
    for round in 0..3 {
        for (name, other) in [("a", "b"), ("d/a", "c")] {
            assert!(!mount.path(name).exists(), "round {round}");
            match round {
                0 => fs::write(mount.path(name), "x").expect("create"),
                1 => {
                    fs::write(mount.path(other), "x").expect("create");
                    fs::rename(mount.path(other), mount.path(name)).expect("rename");
                }
                _ => {
                    fs::write(mount.path(other), "x").expect("create");
                    fs::hard_link(mount.path(other), mount.path(name)).expect("link");
                    fs::remove_file(mount.path(other)).expect("unlink");
                }
            }
            assert_eq!(fs::read(mount.path(name)).expect("read"), b"x");
            fs::remove_file(mount.path(name)).expect("unlink");
        }
    }
}

#[test]
fn renames_of_all_kinds() {
    if unable() {
        return;
    }
    use nix::fcntl::{renameat2, RenameFlags, AT_FDCWD};
    let mount = Mount::new(64 << 20);
    let p = |name: &str| mount.path(name);
    let rename =
        |from: &str, to: &str, flags| renameat2(AT_FDCWD, &p(from), AT_FDCWD, &p(to), flags);
    fs::create_dir_all(p("a/b/c")).expect("mkdir");
    fs::write(p("f"), "f").expect("write");
    fs::write(p("g"), "g").expect("write");
    assert_eq!(
        rename("f", "g", RenameFlags::RENAME_NOREPLACE),
        Err(Errno::EEXIST)
    );
    rename("f", "g", RenameFlags::RENAME_EXCHANGE).expect("exchange");
    assert_eq!(fs::read(p("f")).expect("read"), b"g");
    rename("f", "a", RenameFlags::RENAME_EXCHANGE).expect("file against directory");
    assert_eq!(fs::read(p("a")).expect("read"), b"g");
    assert!(p("f/b/c").is_dir());
    rename("f", "a", RenameFlags::RENAME_EXCHANGE).expect("and back");
    assert_eq!(
        rename("a", "a/b/x", RenameFlags::empty()),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        rename("a/b", "a", RenameFlags::empty()),
        Err(Errno::ENOTEMPTY)
    );
    assert_eq!(fs::metadata(p("")).expect("stat").nlink(), 3);
    fs::create_dir(p("d")).expect("mkdir");
    rename("a/b", "d/b", RenameFlags::empty()).expect("a directory to another");
    let inode = |name: &str| fs::metadata(p(name)).expect("stat").ino();
    assert_eq!(inode("d/b/.."), inode("d"));
    assert_eq!(fs::metadata(p("a")).expect("stat").nlink(), 2);
    assert_eq!(fs::metadata(p("d")).expect("stat").nlink(), 3);
    rename("f", "w", RenameFlags::RENAME_WHITEOUT).expect("whiteout");
    let hole = fs::metadata(p("f")).expect("stat");
    assert!(hole.file_type().is_char_device() && hole.rdev() == 0);
}

#[test]
fn large_directories_are_whole_and_stable() {
    if unable() {
        return;
    }
    let mount = Mount::new(256 << 20);
    let dir = mount.path("d");
    fs::create_dir(&dir).expect("mkdir");
    const N: usize = 20_000;
    for n in 0..N {
        File::create(dir.join(format!("name {n}"))).expect("create");
    }
    for _ in 0..2 {
        let names: Vec<_> = fs::read_dir(&dir)
            .expect("readdir")
            .map(|e| e.expect("entry").file_name())
            .collect();
        let unique: HashSet<_> = names.iter().collect();
        assert_eq!((names.len(), unique.len()), (N, N));
    }
    // ls -l: with attributes.
    let sizes = fs::read_dir(&dir)
        .expect("readdir")
        .map(|e| e.expect("entry").metadata().expect("stat").len())
        .sum::<u64>();
    assert_eq!(sizes, 0);
    // Names that stay must be given even while others go: delete every other while reading.
    let mut seen = HashSet::new();
    for (n, entry) in fs::read_dir(&dir).expect("readdir").enumerate() {
        let entry = entry.expect("entry");
        seen.insert(entry.file_name());
        if n % 2 == 0 {
            fs::remove_file(entry.path()).expect("unlink");
        }
    }
    assert_eq!(seen.len(), N);
    fs::remove_dir_all(&dir).expect("rm -r");
}

#[test]
fn times_are_kept_to_the_nanosecond_and_before_1970() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    fs::write(mount.path("f"), "x").expect("write");
    let times = [
        (5, 123_456_789),
        (-2, 250_000_000),
        (-1, 999_999_999),
        (9_000_000_000, 1),
    ];
    for (n, (s, ns)) in times.into_iter().enumerate() {
        let name = format!("t{n}");
        fs::write(mount.path(&name), "x").expect("write");
        let t = TimeSpec::new(s, ns);
        let at = nix::fcntl::AT_FDCWD;
        utimensat(
            at,
            &mount.path(&name),
            &t,
            &t,
            UtimensatFlags::FollowSymlink,
        )
        .expect("utimens");
    }
    mount.unmount();
    mount.mount("");
    for (n, (s, ns)) in times.into_iter().enumerate() {
        let m = fs::metadata(mount.path(&format!("t{n}"))).expect("stat");
        assert_eq!((m.mtime(), m.mtime_nsec()), (s, ns));
        assert_eq!((m.atime(), m.atime_nsec()), (s, ns));
    }
}

#[test]
fn access_times_follow_the_mount_options() {
    if unable() {
        return;
    }
    let old = TimeSpec::new(1_000_000, 0);
    let new = TimeSpec::new(2_000_000, 0);
    for (options, moves, again) in [
        ("relatime", true, false),
        ("noatime", false, false),
        ("strictatime", true, true),
    ] {
        let mount = Mount::with(64 << 20, options);
        let path = mount.path("f");
        fs::write(&path, "data").expect("write");
        let at = nix::fcntl::AT_FDCWD;
        utimensat(at, &path, &old, &new, UtimensatFlags::FollowSymlink).expect("utimens");
        let atime = || {
            let m = fs::metadata(&path).expect("stat");
            m.atime() * 1_000_000_000 + m.atime_nsec()
        };
        assert_eq!(atime(), 1_000_000_000_000_000);
        let read = || {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&path)
                .expect("open");
            let mut data = vec![0; 8192];
            let start = data.as_ptr().align_offset(4096);
            file.read_at(&mut data[start..start + 4096], 0)
                .expect("read");
        };
        read();
        let first = atime();
        assert_eq!(first > 1_000_000_000_000_000, moves, "{options}");
        std::thread::sleep(Duration::from_millis(30));
        read();
        assert_eq!(atime() > first, again, "{options}, second read");
    }
}

#[test]
fn extended_attributes() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    let path = mount.path("f");
    fs::write(&path, "x").expect("write");
    xattr::set(&path, "user.a", b"one", 0).expect("user");
    xattr::set(&path, "trusted.b", b"two", 0).expect("trusted");
    xattr::set(&path, "user.empty", b"", 0).expect("empty");
    let large = vec![b'L'; 20_000];
    xattr::set(&path, "user.large", &large, 0).expect("large");
    assert_eq!(
        xattr::set(&path, "user.a", b"", libc::XATTR_CREATE),
        Err(Errno::EEXIST)
    );
    assert_eq!(
        xattr::set(&path, "user.c", b"", libc::XATTR_REPLACE),
        Err(Errno::ENODATA)
    );
    assert_eq!(
        xattr::set(&path, "nonsense.a", b"", 0),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(xattr::get(&path, "user.a", 2), Err(Errno::ERANGE));
    assert_eq!(xattr::get(&path, "user.none", 10), Err(Errno::ENODATA));
    mount.unmount();
    mount.mount("");
    assert_eq!(xattr::get(&path, "user.a", 100), Ok(b"one".to_vec()));
    assert_eq!(xattr::get(&path, "user.empty", 100), Ok(Vec::new()));
    assert_eq!(xattr::get(&path, "user.large", 65536), Ok(large));
    let names = ["user.a", "trusted.b", "user.empty", "user.large"];
    assert_eq!(xattr::list(&path), Ok(names.map(str::to_owned).into()));
    xattr::remove(&path, "user.a").expect("remove");
    assert_eq!(xattr::remove(&path, "user.a"), Err(Errno::ENODATA));
    // Symbolic links carry attributes of the trusted sort only.
    symlink("x", mount.path("link")).expect("symlink");
    xattr::set(&mount.path("link"), "trusted.l", b"v", 0).expect("trusted");
    assert_eq!(
        xattr::set(&mount.path("link"), "user.l", b"v", 0),
        Err(Errno::EPERM)
    );
}

#[test]
fn permissions_hold_for_others() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 << 20);
    open_way(&mount);
    fs::write(mount.path("secret"), "x").expect("write");
    chmod(&mount.path("secret"), 0o600);
    assert!(!as_nobody("cat \"$1\"", &mount.path("secret")));
    assert!(!as_nobody("echo x > \"$1/new\"", &mount.path("")));
    fs::create_dir(mount.path("tmp")).expect("mkdir");
    chmod(&mount.path("tmp"), 0o1777);
    assert!(as_nobody(
        "umask 027 && echo x > \"$1/new\"",
        &mount.path("tmp")
    ));
    let new = mount.path("tmp/new");
    assert_eq!(mode(&new), 0o640);
    assert_eq!(fs::metadata(&new).expect("stat").uid(), NOBODY);
    // A SGID directory hands down its group, and itself to directories.
    chown(mount.path("tmp"), None, Some(4242)).expect("chown");
    chmod(&mount.path("tmp"), 0o3777);
    assert!(as_nobody(
        "echo x > \"$1/file\" && mkdir \"$1/dir\"",
        &mount.path("tmp")
    ));
    assert_eq!(
        fs::metadata(mount.path("tmp/file")).expect("stat").gid(),
        4242
    );
    assert_eq!(
        fs::metadata(mount.path("tmp/dir")).expect("stat").gid(),
        4242
    );
    assert_eq!(mode(&mount.path("tmp/dir")) & 0o2000, 0o2000);
}

#[test]
fn nobody_else_when_asked_so() {
    if unable() {
        return;
    }
    let mount = Mount::with(64 << 20, "noallow_other,mode=777");
    open_way(&mount);
    assert!(!as_nobody("ls \"$1\"", &mount.path("")));
}

#[test]
fn set_id_bits_go_with_a_write_chown_and_truncate_of_others() {
    if unable() {
        return;
    }
    for io in ["io=auto", "io=cached"] {
        let mount = Mount::with(64 << 20, io);
        open_way(&mount);
        let path = mount.path("f");
        fs::write(&path, "some data").expect("write");
        let restored = |bits| {
            chmod(&path, bits);
            assert_eq!(mode(&path), bits);
        };
        let write = "printf y 1<> \"$1\"";
        restored(0o6777);
        assert!(as_nobody(write, &path));
        assert_eq!(mode(&path), 0o777, "write, {io}");
        // A second time, and what the kernel had cached of the mode does not count.
        restored(0o4777);
        let file = File::open(&path).expect("open");
        assert!(as_nobody(write, &path));
        assert_eq!(
            file.metadata().expect("fstat").mode() & 0o7777,
            0o777,
            "{io}"
        );
        restored(0o2766);
        assert!(as_nobody(write, &path));
        assert_eq!(mode(&path) & 0o777, 0o766, "{io}");
        restored(0o6777);
        assert!(as_nobody("truncate -s 5 \"$1\"", &path));
        assert_eq!(mode(&path), 0o777, "truncate, {io}");
        restored(0o6777);
        assert!(as_nobody(": > \"$1\"", &path));
        assert_eq!(mode(&path), 0o777, "O_TRUNC, {io}");
        restored(0o6755);
        chown(&path, Some(NOBODY), None).expect("chown");
        assert_eq!(mode(&path), 0o755, "chown, {io}");
        // root may.
        restored(0o6755);
        let file = OpenOptions::new().write(true).open(&path).expect("open");
        file.write_all_at(b"z", 0).expect("write");
        assert_eq!(mode(&path), 0o6755, "root, {io}");
        // File capabilities go with any write.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        xattr::set(&path, "security.capability", &capability, 0).expect("setcap");
        file.write_all_at(b"z", 0).expect("write");
        assert_eq!(
            xattr::get(&path, "security.capability", 100),
            Err(Errno::ENODATA),
            "{io}"
        );
    }
}

#[test]
fn acls_are_handed_down_and_follow_a_chmod() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(64 << 20);
    open_way(&mount);
    let dir = mount.path("d");
    fs::create_dir(&dir).expect("mkdir");
    let list = acl(&[
        (1, 7, ANY),
        (2, 6, NOBODY),
        (4, 5, ANY),
        (0x10, 7, ANY),
        (0x20, 0, ANY),
    ]);
    xattr::set(&dir, DEFAULT, &list, 0).expect("default ACL");
    // The mask, not the umask, limits what is made below.
    let old = nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    let made = fs::write(dir.join("f"), "data");
    let made_dir = fs::create_dir(dir.join("sub"));
    nix::sys::stat::umask(old);
    made.and(made_dir).expect("create");
    assert_eq!(mode(&dir.join("f")), 0o660);
    assert_eq!(mode(&dir.join("sub")), 0o770);
    let expected = acl(&[
        (1, 6, ANY),
        (2, 6, NOBODY),
        (4, 5, ANY),
        (0x10, 6, ANY),
        (0x20, 0, ANY),
    ]);
    assert_eq!(xattr::get(&dir.join("f"), ACCESS, 200), Ok(expected));
    assert_eq!(xattr::get(&dir.join("sub"), DEFAULT, 200), Ok(list));
    chmod(&dir, 0o755);
    assert!(
        as_nobody("cat \"$1\"", &dir.join("f")),
        "the list lets nobody read"
    );
    chmod(&dir.join("f"), 0o600);
    assert!(
        !as_nobody("cat \"$1\"", &dir.join("f")),
        "the mask is empty now"
    );
    chmod(&dir.join("f"), 0o640);
    mount.unmount();
    mount.mount("");
    assert!(as_nobody("cat \"$1\"", &dir.join("f")));
    assert!(!as_nobody("echo x >> \"$1\"", &dir.join("f")));
    // A list that says no more than a mode becomes one.
    let short = acl(&[(1, 6, ANY), (4, 4, ANY), (0x20, 4, ANY)]);
    xattr::set(&dir.join("f"), ACCESS, &short, 0).expect("set");
    assert_eq!(mode(&dir.join("f")), 0o644);
    assert_eq!(xattr::get(&dir.join("f"), ACCESS, 200), Err(Errno::ENODATA));
    // The kernel looks first, and has its own word for it.
    let nonsense = xattr::set(&dir.join("f"), ACCESS, b"nonsense", 0);
    assert!(matches!(nonsense, Err(Errno::EINVAL | Errno::EOPNOTSUPP)));
    // Files made without a default list have none.
    fs::write(mount.path("plain"), "x").expect("write");
    assert_eq!(
        xattr::get(&mount.path("plain"), ACCESS, 200),
        Err(Errno::ENODATA)
    );
}

#[test]
fn file_handles_survive_the_kernels_forgetting() {
    if unable() {
        return;
    }
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mount = Mount::new(64 << 20);
    fs::create_dir(mount.path("d")).expect("mkdir");
    fs::write(mount.path("d/f"), "by handle").expect("write");
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let path = CString::new(mount.path("d/f").as_os_str().as_bytes()).expect("no NUL");
    let mut id = 0;
    // SAFETY: the path ends with NUL; `Handle` is a file_handle with room for 128 bytes.
    let r = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            &mut handle,
            &mut id,
            0,
        )
    };
    Errno::result(r).expect("name_to_handle_at");
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
    let root = File::open(mount.path("")).expect("open");
    let open = |handle: &mut Handle| {
        use std::os::fd::{AsRawFd, FromRawFd};
        // SAFETY: as above.
        let r = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                root.as_raw_fd(),
                handle as *mut Handle,
                libc::O_RDONLY,
            )
        };
        // SAFETY: the kernel has just given us this descriptor.
        Errno::result(r).map(|fd| unsafe { File::from_raw_fd(fd as i32) })
    };
    let mut text = String::new();
    let mut file = open(&mut handle).expect("open_by_handle_at");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "by handle");
    drop(file);
    fs::remove_file(mount.path("d/f")).expect("unlink");
    mount.free();
    for n in 0..100 {
        fs::write(mount.path(&format!("d/{n}")), "reuses the number").expect("write");
    }
    assert_eq!(open(&mut handle).map(|_| ()), Err(Errno::ESTALE));
    // Numbers nobody ever gave out, in the table and behind it: the first word is the number.
    for number in (0u64..400).chain([1 << 20, 1 << 40, u64::MAX]) {
        // The kernel's order: upper half, lower half, generation.
        handle.data[..8].copy_from_slice(&number.rotate_left(32).to_ne_bytes());
        let _ = open(&mut handle);
    }
    fs::write(mount.path("d/after"), "not read-only").expect("write");
}
