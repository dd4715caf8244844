// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The least that must work: format, mount, every kind of operation once, remount.

use fs_core::*;
use std::alloc::{alloc_zeroed, Layout};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

struct TestHost {
    locks: Vec<AtomicBool>,
    clock: AtomicI64,
    random: AtomicU64,
}

impl TestHost {
    fn new() -> Self {
        TestHost {
            locks: (0..LOCKS).map(|_| AtomicBool::new(false)).collect(),
            clock: AtomicI64::new(1_000_000_000),
            random: AtomicU64::new(1),
        }
    }
}

impl Host for TestHost {
    fn now(&self) -> i64 {
        self.clock.fetch_add(1000, SeqCst)
    }
    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, SeqCst)
    }
    fn crc32(&self, crc: u32, data: &[u8]) -> u32 {
        let mut h = crc32fast::Hasher::new_with_initial(crc);
        h.update(data);
        h.finalize()
    }
    fn lock(&self, id: usize) {
        assert!(
            self.try_lock(id),
            "lock {id} is taken: one thread must never wait"
        );
    }
    fn try_lock(&self, id: usize) -> bool {
        !self.locks[id].swap(true, SeqCst)
    }
    fn unlock(&self, id: usize) {
        assert!(self.locks[id].swap(false, SeqCst));
    }
    fn cpu(&self) -> usize {
        0
    }
    fn report(&self, c: &Corruption) {
        panic!("{c:?}");
    }
}

fn region(len: usize) -> MappedRegion {
    let layout = Layout::from_size_align(len, 4096).unwrap();
    // SAFETY: `layout` has a size; the memory is leaked, so that it stays for ever, and nobody else
    // has it.
    unsafe { MappedRegion::new(NonNull::new(alloc_zeroed(layout)).unwrap(), len as u64) }
}

fn owner() -> Owner {
    Owner {
        boot_id: [7; 16],
        kind: OwnerKind::Tool,
        pid: 42,
        start: 1,
    }
}

fn mount<'a>(r: &'a MappedRegion, h: &'a TestHost) -> Fs<&'a MappedRegion, &'a TestHost> {
    Fs::mount(
        r,
        h,
        &MountOptions {
            read_only: false,
            owner: owner(),
            alive: &|_| false,
        },
    )
    .unwrap()
}

#[test]
fn smoke() {
    let r = region(8 << 20);
    let h = TestHost::new();
    let options = FormatOptions {
        uuid: [1; 16],
        label: [0; 32],
        uid: 0,
        gid: 0,
        mode: 0o755,
        struct_pages: false,
    };
    format(&r, &h, &options).unwrap();
    let fs = mount(&r, &h);
    let empty = fs.statfs();
    let new = NewInode {
        mode: S_IFREG | 0o644,
        ..Default::default()
    };
    let f = fs.create(ROOT_INO, b"file", &new).unwrap().ino;
    assert_eq!(fs.lookup(ROOT_INO, b"file"), Ok(f));
    let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    assert_eq!(fs.write(f, 1000, &data), Ok(data.len()));
    let mut back = vec![1u8; data.len() + 5000];
    assert_eq!(fs.read(f, 0, &mut back), Ok(data.len() + 1000));
    assert!(back[..1000].iter().all(|b| *b == 0) && back[1000..][..data.len()] == data[..]);
    for i in 0..2000u32 {
        let name = format!("name number {i} of some length");
        fs.create(ROOT_INO, name.as_bytes(), &new).unwrap();
    }
    let mut seen = 0;
    fs.readdir(ROOT_INO, 0, &mut |_| {
        seen += 1;
        true
    })
    .unwrap();
    assert_eq!(seen, 2001);
    fs.setxattr(f, b"user.a", &[5; 3000], XattrMode::Either)
        .unwrap();
    fs.setxattr(f, b"user.b", b"value", XattrMode::Create)
        .unwrap();
    // What goes without an unmount has crashed.
    let fs = mount(&r, &h);
    let mut value = [0; 3000];
    assert_eq!(fs.getxattr(f, b"user.a", &mut value), Ok(3000));
    for i in 0..2000u32 {
        let name = format!("name number {i} of some length");
        let gone = fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
        assert_eq!(gone.nlink, 0);
        fs.evict(gone.ino).unwrap();
    }
    fs.fallocate(f, Fallocate::PunchHole, 4096, 100_000)
        .unwrap();
    // A hole in every second page, far apart: the extents need a tree.
    for i in 0..400u64 {
        fs.write(f, (1 << 40) + i * 8192, b"x").unwrap();
    }
    fs.seal(f).unwrap();
    assert_eq!(fs.write(f, 0, b"no"), Err(Error::NotPermitted));
    let mut at = Some(0);
    while let Some(a) = at {
        at = fs.verify(f, a).unwrap();
    }
    fs.unseal(f).unwrap();
    fs.rename(ROOT_INO, b"file", ROOT_INO, b"other", RenameMode::Replace)
        .unwrap();
    let gone = fs.unlink(ROOT_INO, b"other").unwrap();
    // What goes without an unmount has crashed.
    let fs = mount(&r, &h);
    assert_eq!(fs.stats().pending, 1);
    while fs
        .reclaim_step(&mut |_, work| work().map(|()| true))
        .unwrap()
    {}
    assert_eq!(fs.stats().pending, 0);
    assert_eq!(fs.getattr(gone.ino), Err(Error::Stale));
    let after = fs.statfs();
    assert_eq!(after.inodes, empty.inodes);
    // What stays is the inode table, which never shrinks.
    assert!(
        empty.free - after.free <= 2048 / 16 + 64 + 1,
        "{empty:?} {after:?}"
    );
    fs.unmount().unwrap();
}
