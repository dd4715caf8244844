// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Reading and writing in all the ways the kernel knows.

use crate::fixture::{unable, Mount};
use nix::errno::Errno;
use nix::fcntl::{copy_file_range, fallocate, open, splice, FallocateFlags, OFlag, SpliceFFlags};
use nix::sys::mman::{mmap, msync, munmap, MapFlags, MsFlags, ProtFlags};
use nix::sys::sendfile::sendfile;
use nix::sys::stat::Mode;
use nix::sys::uio::{preadv, pwritev};
use nix::unistd::{lseek64, Whence};
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn read_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("open")
}

#[test]
fn what_is_written_is_read_even_after_a_remount() {
    if unable() {
        return;
    }
    for io in ["io=auto", "io=direct", "io=cached"] {
        let mut mount = Mount::with(64 * MIB, io);
        let data = pattern(5 * MIB as usize + 123, 1);
        fs::write(mount.path("f"), &data).expect("write");
        assert!(fs::read(mount.path("f")).expect("read") == data, "{io}");
        let file = read_write(&mount.path("f"));
        file.write_all_at(b"hello", 2 * MIB - 2).expect("overwrite");
        let mut part = [0; 9];
        file.read_exact_at(&mut part, 2 * MIB - 4).expect("read");
        assert_eq!(&part[2..7], b"hello");
        drop(file);
        mount.unmount();
        mount.mount(io);
        let mut expected = data.clone();
        expected[2 * MIB as usize - 2..][..5].copy_from_slice(b"hello");
        assert!(fs::read(mount.path("f")).expect("read") == expected, "{io}");
    }
}

#[test]
fn small_files_read_and_written_at_once_stay_coherent() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let path = mount.path("log");
    fs::write(&path, "").expect("write");
    // As tail -f beside a logger: the reader must never see zeros where text will be.
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut reader = File::open(&path).expect("open");
            let mut seen = Vec::new();
            loop {
                let last = done.load(std::sync::atomic::Ordering::Acquire);
                reader.read_to_end(&mut seen).expect("read");
                if last {
                    return seen;
                }
            }
        });
        let mut writer = OpenOptions::new().append(true).open(&path).expect("open");
        let mut expected = Vec::new();
        for n in 0..3000 {
            let line = format!("line {n}\n");
            writer.write_all(line.as_bytes()).expect("append");
            expected.extend_from_slice(line.as_bytes());
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        let seen = reader.join().expect("reader");
        assert!(seen == expected, "{} of {}", seen.len(), expected.len());
    });
}

#[test]
fn sparse_files_cost_their_pages_only() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let before = mount.free();
    let path = mount.path("sparse");
    let file = read_write(&path);
    let places = [0, 1 << 44, (1 << 47) - 4096];
    for (n, at) in places.iter().enumerate() {
        file.write_all_at(&pattern(4096, n as u64 + 1), *at)
            .expect("write");
    }
    let meta = file.metadata().expect("stat");
    assert_eq!(meta.size(), 1 << 47);
    let pages = meta.blocks() / 8;
    assert!((3..=8).contains(&pages), "{pages} pages");
    assert!(
        before - mount.free() <= 8,
        "{} pages",
        before - mount.free()
    );

    for (n, at) in places.iter().enumerate() {
        let mut page = vec![0; 4096];
        file.read_exact_at(&mut page, *at).expect("read");
        assert!(page == pattern(4096, n as u64 + 1));
    }
    let mut hole = [1; 64];
    file.read_exact_at(&mut hole, 1 << 40).expect("read");
    assert_eq!(hole, [0; 64]);

    let seek = |from: i64, whence| lseek64(&file, from, whence);
    assert_eq!(seek(0, Whence::SeekData), Ok(0));
    assert_eq!(seek(0, Whence::SeekHole), Ok(4096));
    assert_eq!(seek(4096, Whence::SeekData), Ok(1 << 44));
    assert_eq!(seek(1 << 44, Whence::SeekHole), Ok((1 << 44) + 4096));
    assert_eq!(
        seek((1 << 44) + 4096, Whence::SeekData),
        Ok((1 << 47) - 4096)
    );
    assert_eq!(seek((1 << 47) - 10, Whence::SeekHole), Ok(1 << 47));
    assert_eq!(seek(1 << 47, Whence::SeekData), Err(Errno::ENXIO));
    assert_eq!(seek(1 << 47, Whence::SeekHole), Err(Errno::ENXIO));

    let copied = Command::new("cp")
        .args(["--sparse=always", "--reflink=never"])
        .args([&path, &mount.path("copy")])
        .status()
        .expect("cp");
    assert!(copied.success());
    let copy = File::open(mount.path("copy")).expect("open");
    let meta = copy.metadata().expect("stat");
    assert_eq!(meta.size(), 1 << 47);
    assert!(meta.blocks() / 8 <= 8, "{} pages", meta.blocks() / 8);
    for (n, at) in places.iter().enumerate() {
        let mut page = vec![0; 4096];
        copy.read_exact_at(&mut page, *at).expect("read");
        assert!(page == pattern(4096, n as u64 + 1), "copy at {at:#x}");
    }
    drop((file, copy));
    fs::remove_file(&path).expect("unlink");
    fs::remove_file(mount.path("copy")).expect("unlink");
    assert_eq!(mount.free(), before, "pages lost");
}

#[test]
fn the_largest_offset_is_the_limit() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let file = read_write(&mount.path("f"));
    file.set_len(i64::MAX as u64)
        .expect("2^63-1 bytes, all hole");
    assert_eq!(file.metadata().expect("stat").len(), i64::MAX as u64);
    file.write_all_at(b"x", i64::MAX as u64 - 1)
        .expect("the last byte");
    let mut last = [0];
    file.read_exact_at(&mut last, i64::MAX as u64 - 1)
        .expect("read");
    assert_eq!(&last, b"x");
    let e = file.write_at(b"xy", i64::MAX as u64).expect_err("beyond");
    assert!(
        matches!(e.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)),
        "{e}"
    );
}

/// Maps `len` bytes of a file shared, and runs `work` on them.
fn mapped(file: &File, len: usize, work: impl FnOnce(*mut u8)) {
    let size = NonZeroUsize::new(len).expect("not empty");
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let map = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file, 0) }.expect("mmap");
    work(map.as_ptr().cast());
    // SAFETY: the mapping made above, not used any more.
    unsafe { munmap(map, len) }.expect("munmap");
}

#[test]
fn shared_mappings_see_writes_and_writes_see_them() {
    if unable() {
        return;
    }
    for io in ["io=auto", "io=direct", "io=cached"] {
        let mut mount = Mount::with(64 * MIB, io);
        let file = read_write(&mount.path("f"));
        let len = 3 * MIB as usize;
        file.write_all_at(&pattern(len, 3), 0).expect("write");
        mapped(&file, len, |p| {
            // SAFETY: `p` is a live mapping of `len` bytes; raw accesses only.
            unsafe {
                assert_eq!(p.add(5000).read_volatile(), pattern(len, 3)[5000], "{io}");
                file.write_all_at(b"by write", 10_000).expect("write");
                assert_eq!(p.add(10_003).read_volatile(), b'w', "{io}");
                p.add(20_000).write_volatile(b'M');
                let mut byte = [0];
                file.read_exact_at(&mut byte, 20_000).expect("read");
                assert_eq!(&byte, b"M", "{io}");
                // A write beside dirty mapped bytes of the same page loses neither.
                p.add(30_000).write_volatile(b'A');
                file.write_all_at(b"B", 30_001).expect("write");
                assert_eq!(p.add(30_000).read_volatile(), b'A', "{io}");
                assert_eq!(p.add(30_001).read_volatile(), b'B', "{io}");
                p.add(40_000).write_volatile(b'S');
                let page = std::ptr::NonNull::new(p.add(36_864).cast()).expect("not null");
                msync(page, 8192, MsFlags::MS_SYNC).expect("msync");
            }
        });
        drop(file);
        // After msync and close everything is in the region, whatever happens to the daemon.
        mount.kill();
        mount.mount(io);
        let data = fs::read(mount.path("f")).expect("read");
        assert_eq!(data.len(), len);
        assert_eq!(&data[10_000..10_008], b"by write", "{io}");
        assert_eq!((data[20_000], data[40_000]), (b'M', b'S'), "{io}");
        assert_eq!(&data[30_000..30_002], b"AB", "{io}");
    }
}

#[test]
fn programs_run_from_it() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    fs::copy("/bin/true", mount.path("true")).expect("copy");
    assert!(Command::new(mount.path("true"))
        .status()
        .expect("exec")
        .success());
    fs::copy("/bin/cat", mount.path("cat")).expect("copy");
    let out = Command::new(mount.path("cat"))
        .arg("/proc/self/comm")
        .output()
        .expect("exec");
    assert_eq!(out.stdout, b"cat\n");
}

#[test]
fn o_direct_and_vectors() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(mount.path("f"))
        .expect("open");
    let raw = pattern(2 * MIB as usize + 8192, 9);
    let start = raw.as_ptr().align_offset(4096);
    let data = &raw[start..start + 2 * MIB as usize];
    file.write_all_at(data, 4096).expect("write");
    let mut back = vec![0; 2 * MIB as usize + 8192];
    let start = back.as_ptr().align_offset(4096);
    file.read_exact_at(&mut back[start..start + 2 * MIB as usize], 4096)
        .expect("read");
    assert!(&back[start..start + 2 * MIB as usize] == data);

    let file = read_write(&mount.path("v"));
    let parts = [
        IoSlice::new(b"abc"),
        IoSlice::new(b""),
        IoSlice::new(b"defgh"),
    ];
    assert_eq!(pwritev(&file, &parts, 7), Ok(8));
    let (mut a, mut b) = ([0; 9], [0; 20]);
    let mut into = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
    assert_eq!(preadv(&file, &mut into, 0), Ok(15));
    assert_eq!((&a, &b[..6]), (b"\0\0\0\0\0\0\0ab", &b"cdefgh"[..]));
}

#[test]
fn splice_sendfile_and_copy_file_range() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let data = pattern(700_001, 4);
    // As CRIU dumps: from a pipe into the file.
    let file = read_write(&mount.path("spliced"));
    let (from, to) = nix::unistd::pipe().expect("pipe");
    std::thread::scope(|s| {
        let data = &data;
        s.spawn(move || File::from(to).write_all(data).expect("feed"));
        let mut total = 0;
        loop {
            let n = splice(
                &from,
                None,
                &file,
                None,
                1 << 20,
                SpliceFFlags::SPLICE_F_MOVE,
            )
            .expect("splice");
            if n == 0 {
                break;
            }
            total += n;
        }
        assert_eq!(total, data.len());
    });
    assert!(fs::read(mount.path("spliced")).expect("read") == data);

    // From the file into a pipe.
    let file = File::open(mount.path("spliced")).expect("open");
    let (from, to) = nix::unistd::pipe().expect("pipe");
    let back = std::thread::scope(|s| {
        let reader = s.spawn(move || {
            let mut back = Vec::new();
            File::from(from).read_to_end(&mut back).map(|_| back)
        });
        while splice(&file, None, &to, None, 1 << 20, SpliceFFlags::empty()).expect("splice") > 0 {}
        drop(to);
        reader.join().expect("reader").expect("read")
    });
    assert!(back == data);

    let mut target = read_write(&mount.path("sent"));
    let mut at = 0;
    while sendfile(&target, &file, Some(&mut at), 1 << 20).expect("sendfile") > 0 {}
    target.rewind().expect("seek");
    let mut back = Vec::new();
    target.read_to_end(&mut back).expect("read");
    assert!(back == data);

    let target = read_write(&mount.path("ranged"));
    let (mut from, mut to) = (100, 50_000);
    let mut left = data.len() - 100;
    while left > 0 {
        let n = copy_file_range(&file, Some(&mut from), &target, Some(&mut to), left)
            .expect("copy_file_range");
        assert!(n > 0);
        left -= n;
    }
    let back = fs::read(mount.path("ranged")).expect("read");
    assert!(back[..50_000].iter().all(|b| *b == 0));
    assert!(back[50_000..] == data[100..]);
}

#[test]
fn fallocate_in_all_modes() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let file = read_write(&mount.path("f"));
    let call = |mode, at, len| fallocate(&file, mode, at, len);
    let size = || file.metadata().expect("stat").len();
    let blocks = || file.metadata().expect("stat").blocks();
    call(FallocateFlags::empty(), 0, 1 << 20).expect("allocate");
    assert_eq!((size(), blocks() >= 2048), (1 << 20, true));
    assert_eq!(
        lseek64(&file, 0, Whence::SeekData),
        Err(Errno::ENXIO),
        "unwritten is a hole"
    );
    call(FallocateFlags::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20).expect("behind the end");
    assert_eq!((size(), blocks() >= 4096), (1 << 20, true));

    file.write_all_at(&pattern(1 << 20, 5), 0).expect("write");
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let before = blocks();
    call(punch, 100_000, 200_000).expect("punch");
    assert!(blocks() < before);
    let mut expected = pattern(1 << 20, 5);
    expected[100_000..300_000].fill(0);
    assert!(fs::read(mount.path("f")).expect("read") == expected);
    call(FallocateFlags::FALLOC_FL_ZERO_RANGE, 1_000_000, 100_000).expect("zero");
    expected.resize(1_100_000, 0);
    expected[1_000_000..].fill(0);
    assert!(fs::read(mount.path("f")).expect("read") == expected);

    for mode in [
        FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
        FallocateFlags::FALLOC_FL_INSERT_RANGE,
    ] {
        assert_eq!(call(mode, 0, 4096), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(
        call(FallocateFlags::empty(), 0, 1 << 40),
        Err(Errno::ENOSPC)
    );
}

#[test]
fn truncation_leaves_zeros() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let path = mount.path("f");
    fs::write(&path, pattern(100_000, 6)).expect("write");
    let file = read_write(&path);
    file.set_len(5_001).expect("shrink");
    file.set_len(50_000).expect("grow");
    let data = fs::read(&path).expect("read");
    assert!(data[..5_001] == pattern(100_000, 6)[..5_001]);
    assert!(data[5_001..].iter().all(|b| *b == 0) && data.len() == 50_000);
    let mut file = OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(b"end").expect("append");
    assert_eq!(file.stream_position().expect("tell"), 50_003);
    let file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .expect("O_TRUNC");
    assert_eq!(file.metadata().expect("stat").len(), 0);
}

#[test]
fn locks_exclude() {
    if unable() {
        return;
    }
    use nix::fcntl::{fcntl, FcntlArg, Flock, FlockArg};
    let mount = Mount::new(64 * MIB);
    let path = mount.path("f");
    let lock = |file| Flock::lock(file, FlockArg::LockExclusiveNonblock);
    let held = lock(read_write(&path)).map_err(|(_, e)| e).expect("flock");
    assert_eq!(
        lock(read_write(&path)).map_err(|(_, e)| e).err(),
        Some(Errno::EWOULDBLOCK)
    );
    drop(held);
    lock(read_write(&path))
        .map_err(|(_, e)| e)
        .expect("free again");

    let range = |start| libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: 10,
        l_pid: 0,
    };
    let (a, b) = (read_write(&path), read_write(&path));
    fcntl(&a, FcntlArg::F_OFD_SETLK(&range(0))).expect("lock");
    fcntl(&b, FcntlArg::F_OFD_SETLK(&range(10))).expect("beside it");
    assert_eq!(
        fcntl(&b, FcntlArg::F_OFD_SETLK(&range(5))),
        Err(Errno::EAGAIN)
    );
}

#[test]
fn a_full_region_says_so_and_recovers() {
    if unable() {
        return;
    }
    let mount = Mount::new(16 * MIB);
    let before = mount.free();
    let mut file = read_write(&mount.path("big"));
    let block = pattern(1 << 20, 8);
    let error = loop {
        if let Err(e) = file.write_all(&block) {
            break e;
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    // A full region can be emptied, also by truncation, and used again at once.
    drop(file);
    for round in 0..20 {
        fs::remove_file(mount.path("big")).expect("unlink");
        fs::write(mount.path("big"), &pattern(8 << 20, round)[..]).expect("space is back");
    }
    read_write(&mount.path("big")).set_len(0).expect("truncate");
    fs::remove_file(mount.path("big")).expect("unlink");
    assert_eq!(mount.free(), before);
}

#[test]
fn unlinked_files_live_until_they_are_closed() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let before = mount.free();
    let mut file = read_write(&mount.path("f"));
    file.write_all(&pattern(3 << 20, 2)).expect("write");
    fs::remove_file(mount.path("f")).expect("unlink");
    fs::write(mount.path("f"), "another").expect("the name is free");
    file.seek(SeekFrom::Start(0)).expect("seek");
    let mut data = Vec::new();
    file.read_to_end(&mut data).expect("read");
    assert!(data == pattern(3 << 20, 2));
    assert_eq!(file.metadata().expect("stat").nlink(), 0);
    assert!(mount.free() < before - 700);
    drop(file);
    fs::remove_file(mount.path("f")).expect("unlink");
    assert_eq!(mount.free(), before);
}

#[test]
fn parallel_writers_of_one_file_do_not_disturb_each_other() {
    if unable() {
        return;
    }
    let mount = Mount::new(128 * MIB);
    let path = mount.path("f");
    read_write(&path).set_len(32 * MIB).expect("size");
    std::thread::scope(|s| {
        for t in 0..8u64 {
            let path = &path;
            s.spawn(move || {
                let file = read_write(path);
                for round in 0..3 {
                    for piece in 0..32 {
                        let at = (piece * 8 + t) * 128 * 1024;
                        let data = pattern(128 * 1024, at + round + 1);
                        file.write_all_at(&data, at).expect("write");
                        let mut back = vec![0; data.len()];
                        file.read_exact_at(&mut back, at).expect("read");
                        assert!(back == data, "thread {t} at {at:#x}");
                    }
                }
            });
        }
    });
    let data = fs::read(&path).expect("read");
    for (n, piece) in data.chunks(128 * 1024).enumerate() {
        let at = n as u64 * 128 * 1024;
        assert!(piece == pattern(128 * 1024, at + 3), "at {at:#x}");
    }
}

#[test]
fn o_tmpfile_is_refused_as_documented() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 * MIB);
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
    let got = open(&mount.path(""), flags, Mode::S_IRWXU);
    assert_eq!(got.map(|_| ()), Err(Errno::EOPNOTSUPP));
    // Temporary files of the usual kind work.
    let mut file = tempfile::tempfile_in(mount.path("")).expect("tempfile");
    file.write_all(b"x").expect("write");
}
