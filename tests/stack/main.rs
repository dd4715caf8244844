// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! How much stack operations take. A kernel thread has 16 KiB, and the VFS, the block layer and
//! interrupts live in it too: the core must stay in its part.
//!
//! Frames depend on the compiler and its options; the limits leave room for that.

use fs_core::{
    Fallocate, Fs, Region, RenameMode, Seek, SetAttr, XattrMode, ROOT_INO, S_IFDIR, S_IFREG,
};
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::TestHost;
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::script::new;
use rpramfs_tests::stack::{stack_of, OPERATION};

struct Table(Vec<(&'static str, usize, usize)>);

impl Table {
    fn of(&mut self, what: &'static str, limit: usize, f: &mut (dyn FnMut() + Send)) {
        self.0.push((what, stack_of(f), limit));
    }
}

/// A mount is asked for from the top of the stack.
const MOUNT: usize = 9 << 10;

fn operations<R: Region>(fs: &Fs<R, TestHost>, t: &mut Table) {
    let name = |i: u64| format!("a-name-that-is-somewhat-long-{i}").into_bytes();
    let file = new(S_IFREG | 0o644);
    t.of("statfs", OPERATION, &mut || {
        fs.statfs();
    });
    t.of("getattr", OPERATION, &mut || {
        fs.getattr(ROOT_INO).unwrap();
    });
    // Splits at every level.
    t.of("create", OPERATION, &mut || {
        for i in 0..30_000 {
            fs.create(ROOT_INO, &name(i), &file).unwrap();
        }
    });
    t.of("mkdir", OPERATION, &mut || {
        fs.create(ROOT_INO, b"d", &new(S_IFDIR | 0o755)).unwrap();
    });
    t.of("symlink", OPERATION, &mut || {
        fs.symlink(ROOT_INO, b"l", &[b'x'; 3000], &new(0o777))
            .unwrap();
    });
    t.of("lookup", OPERATION, &mut || {
        fs.lookup(ROOT_INO, &name(7)).unwrap();
    });
    t.of("readdir", OPERATION, &mut || {
        let mut n = 0;
        fs.readdir(ROOT_INO, 0, &mut |_| {
            n += 1;
            n < 1000
        })
        .unwrap();
    });
    let f = fs.lookup(ROOT_INO, &name(7)).unwrap();
    t.of("write, a tree of depth 3", OPERATION, &mut || {
        for i in 0..60_000u64 {
            fs.write(f, (i * 7919 % 131_072) * 8192, b"x").unwrap();
        }
    });
    t.of("read", OPERATION, &mut || {
        let mut buf = [0u8; 64];
        fs.read(f, 8192, &mut buf).unwrap();
    });
    t.of("seek", OPERATION, &mut || {
        fs.seek(f, 1, Seek::Data).unwrap();
    });
    t.of("fallocate", OPERATION, &mut || {
        let mode = Fallocate::Allocate { keep_size: true };
        fs.fallocate(f, mode, 4 << 20, 1 << 20).unwrap();
    });
    t.of("punch", OPERATION, &mut || {
        fs.fallocate(f, Fallocate::PunchHole, 1 << 20, 100 << 20)
            .unwrap();
    });
    t.of("setattr", OPERATION, &mut || {
        let set = SetAttr {
            size: Some(500 << 20),
            ..SetAttr::default()
        };
        fs.setattr(f, &set).unwrap();
    });
    t.of("setxattr", OPERATION, &mut || {
        fs.setxattr(f, b"user.a", &[1; 3000], XattrMode::Either)
            .unwrap();
        fs.setxattr(f, b"user.b", &[1; 60_000], XattrMode::Either)
            .unwrap();
    });
    t.of("removexattr", OPERATION, &mut || {
        fs.removexattr(f, b"user.b").unwrap();
    });
    t.of("link", OPERATION, &mut || {
        for i in 0..500 {
            fs.link(f, ROOT_INO, format!("hard{i}").as_bytes()).unwrap();
        }
    });
    t.of("rename", OPERATION, &mut || {
        for i in 100..2000 {
            let to = [&b"moved-"[..], &name(i)].concat();
            fs.rename(ROOT_INO, &name(i), ROOT_INO, &to, RenameMode::Replace)
                .unwrap();
        }
    });
    t.of("rename, replacing", OPERATION, &mut || {
        for i in 2000..3000 {
            let to = name(i + 1000);
            fs.rename(ROOT_INO, &name(i), ROOT_INO, &to, RenameMode::Replace)
                .unwrap();
        }
    });
    t.of("seal", OPERATION, &mut || fs.seal(f).unwrap());
    t.of("verify", OPERATION, &mut || {
        fs.verify(f, 0).unwrap();
    });
    t.of("unseal", OPERATION, &mut || fs.unseal(f).unwrap());
    t.of("unlink", OPERATION, &mut || {
        fs.unlink(ROOT_INO, &name(8)).unwrap();
    });
    let g = fs.lookup(ROOT_INO, &name(9)).unwrap();
    fs.unlink(ROOT_INO, &name(9)).unwrap();
    t.of("evict", OPERATION, &mut || fs.evict(g).unwrap());
    t.of("reclaim", OPERATION, &mut || {
        while fs.reclaim_step(&mut |_, f| f().map(|()| true)).unwrap() {}
    });
}

#[test]
fn operations_stay_in_their_part_of_a_kernel_stack() {
    let region = MemRegion::new(1 << 30);
    let host = TestHost::new(1);
    let mut t = Table(Vec::new());
    t.of("nothing", 2048, &mut || ());
    t.of("format", MOUNT, &mut || format(&region, &host));
    // As a kernel would: built where it stays.
    t.of("mount", MOUNT, &mut || {
        std::hint::black_box(Box::new(mount(&region, host.clone()).unwrap()));
    });
    let fs = mount(&region, host.clone()).unwrap();
    operations(&fs, &mut t);
    let mut over = 0;
    for (what, used, limit) in &t.0 {
        let mark = if used > limit { " > limit" } else { "" };
        println!("{what:28} {used:6} of {limit}{mark}");
        over += usize::from(used > limit);
    }
    assert_eq!(over, 0, "operations over their limit (bytes above)");
}
