// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Locks, lifetimes, and renames that would cut the tree.

use super::*;
use crate::{owner, UserRegion};
use fs_core::{FormatOptions, OwnerKind, ROOT_INO, S_IFREG};

fn volume(len: u64) -> Volume<UserRegion> {
    let region = UserRegion::anonymous(len).expect("memory");
    let options = FormatOptions {
        uuid: [1; 16],
        label: [0; 32],
        uid: 0,
        gid: 0,
        mode: 0o755,
        struct_pages: false,
    };
    fs_core::format(&region, &UserHost::new(), &options).expect("format");
    mount(region)
}

fn mount(region: UserRegion) -> Volume<UserRegion> {
    let options = MountOptions {
        read_only: false,
        owner: owner::current(OwnerKind::Tool).expect("owner"),
        // What these tests drop without unmounting is dead.
        alive: &|_| false,
    };
    Volume::mount(region, UserHost::new(), &options).expect("mount")
}

fn file() -> NewInode {
    NewInode {
        mode: S_IFREG | 0o644,
        ..NewInode::default()
    }
}

fn dir() -> NewInode {
    NewInode {
        mode: S_IFDIR | 0o755,
        ..NewInode::default()
    }
}

fn free(v: &Volume<UserRegion>) -> u64 {
    v.statfs().free
}

#[test]
fn directories_do_not_move_below_themselves() {
    let v = volume(16 << 20);
    let a = v.create(ROOT_INO, b"a", &dir()).expect("a").ino;
    let b = v.create(a, b"b", &dir()).expect("b").ino;
    let c = v.create(b, b"c", &dir()).expect("c").ino;
    let rename = |from, name: &[u8], to, new: &[u8], mode| v.rename(from, name, to, new, mode);
    let replace = RenameMode::Replace;
    assert_eq!(
        rename(ROOT_INO, b"a", c, b"x", replace),
        Err(Error::Invalid)
    );
    assert_eq!(
        rename(ROOT_INO, b"a", a, b"x", replace),
        Err(Error::Invalid)
    );
    let exchange = RenameMode::Exchange;
    assert_eq!(
        rename(b, b"c", ROOT_INO, b"a", exchange),
        Err(Error::Invalid)
    );
    assert_eq!(
        rename(ROOT_INO, b"a", b, b"c", exchange),
        Err(Error::Invalid)
    );
    rename(b, b"c", ROOT_INO, b"c", replace).expect("upwards");
    rename(ROOT_INO, b"a", c, b"a", replace).expect("beside");
    assert_eq!(v.parent(a), Ok(c));
}

#[test]
fn the_tree_stays_a_tree_under_renames_against_each_other() {
    let v = volume(16 << 20);
    let dirs: Vec<Ino> = (0..6)
        .map(|n| {
            let name = format!("d{n}");
            v.create(ROOT_INO, name.as_bytes(), &dir())
                .expect("mkdir")
                .ino
        })
        .collect();
    // Each thread moves its own two directories below any other.
    std::thread::scope(|s| {
        for t in 0..3usize {
            let (v, dirs) = (&v, &dirs);
            s.spawn(move || {
                let mut state = t as u64 * 77 + 1;
                for _ in 0..2000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let own = t * 2 + (state & 1) as usize;
                    let to = dirs[(state >> 8) as usize % dirs.len()];
                    let from = v.parent(dirs[own]).expect("parent");
                    let name = format!("d{own}");
                    let name = name.as_bytes();
                    match v.rename(from, name, to, name, RenameMode::Replace) {
                        Ok(_) | Err(Error::Invalid) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    for d in dirs {
        let mut at = d;
        let mut steps = 0;
        while at != ROOT_INO {
            at = v.parent(at).expect("parent");
            steps += 1;
            assert!(steps <= 6, "a directory lost its way to the root");
        }
    }
}

#[test]
fn unlinked_inodes_live_as_long_as_they_are_held() {
    let v = volume(16 << 20);
    v.create(ROOT_INO, b"warm", &file()).expect("create");
    v.unlink(ROOT_INO, b"warm").expect("unlink");
    let before = free(&v);
    let data = vec![5; 1 << 20];
    let ino = v
        .create_acquire(ROOT_INO, b"f", &file())
        .expect("create")
        .ino;
    v.write(ino, 0, &data).expect("write");
    assert_eq!(v.lookup_acquire(ROOT_INO, b"f").expect("again").ino, ino);
    v.unlink(ROOT_INO, b"f").expect("unlink");
    assert_eq!(v.orphans(), 1);
    v.release(ino, 1).expect("first holder");
    let mut back = vec![0; data.len()];
    assert_eq!(v.read(ino, 0, &mut back), Ok(data.len()));
    assert!(back == data);
    while v.reclaim_step().expect("reclaim") {}
    assert!(free(&v) < before, "reclaimed under its holder");
    v.release(ino, 1).expect("last holder");
    assert_eq!((free(&v), v.orphans(), v.held()), (before, 0, 0));
    assert_eq!(v.getattr(ino), Err(Error::Stale));
}

#[test]
fn unheld_inodes_go_with_their_last_name() {
    let v = volume(16 << 20);
    v.create(ROOT_INO, b"warm", &file()).expect("create");
    v.create(ROOT_INO, b"warm too", &file()).expect("create");
    v.unlink(ROOT_INO, b"warm").expect("unlink");
    v.unlink(ROOT_INO, b"warm too").expect("unlink");
    let before = free(&v);
    for name in [b"a", b"b"] {
        let ino = v.create(ROOT_INO, name, &file()).expect("create").ino;
        v.write(ino, 0, &[1; 100_000]).expect("write");
    }
    let mode = RenameMode::Replace;
    v.rename(ROOT_INO, b"a", ROOT_INO, b"b", mode)
        .expect("replace");
    let ino = v.lookup(ROOT_INO, b"b").expect("lookup");
    v.link(ino, ROOT_INO, b"c").expect("link");
    v.unlink(ROOT_INO, b"b").expect("unlink");
    assert!(v.getattr(ino).is_ok());
    v.unlink(ROOT_INO, b"c").expect("unlink");
    assert_eq!(free(&v), before);
}

#[test]
fn nameless_files_can_get_a_name() {
    let v = volume(16 << 20);
    let kept = v.tmpfile(ROOT_INO, &file()).expect("tmpfile").ino;
    let lost = v.tmpfile(ROOT_INO, &file()).expect("tmpfile").ino;
    v.link(kept, ROOT_INO, b"kept").expect("link");
    v.release(kept, 1).expect("release");
    v.release(lost, 1).expect("release");
    assert_eq!(v.lookup(ROOT_INO, b"kept"), Ok(kept));
    assert_eq!(v.getattr(kept).expect("attributes").nlink, 1);
    assert_eq!(v.getattr(lost), Err(Error::Stale));
}

#[test]
fn unmounting_evicts_what_was_held() {
    let v = volume(16 << 20);
    let ino = v
        .create_acquire(ROOT_INO, b"f", &file())
        .expect("create")
        .ino;
    v.write(ino, 0, &[1; 100_000]).expect("write");
    v.unlink(ROOT_INO, b"f").expect("unlink");
    assert_eq!(v.stats().pending, 1);
    v.evict_all().expect("evict");
    assert_eq!(v.stats().pending, 0);
    v.unmount().expect("unmount");
}

#[test]
fn creators_and_unlinkers_of_the_same_names() {
    let v = volume(64 << 20);
    for n in 0..200 {
        v.create(ROOT_INO, format!("warm {n}").as_bytes(), &file())
            .expect("create");
    }
    for n in 0..200 {
        v.unlink(ROOT_INO, format!("warm {n}").as_bytes())
            .expect("unlink");
    }
    let before = free(&v);
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let v = &v;
            s.spawn(move || {
                let mut state = t + 1;
                for _ in 0..3000 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let name = [b'a' + (state >> 20) as u8 % 5];
                    let other = [b'a' + (state >> 30) as u8 % 5];
                    let known = |r: Result<()>| match r {
                        Ok(()) | Err(Error::NotFound | Error::Exists | Error::Stale) => {}
                        Err(e) => panic!("{e}"),
                    };
                    match state % 5 {
                        0 => known(v.create_acquire(ROOT_INO, &name, &file()).and_then(|a| {
                            v.write(a.ino, 0, &[t as u8; 5000])?;
                            v.release(a.ino, 1)
                        })),
                        1 => known(v.unlink(ROOT_INO, &name).map(|_| ())),
                        2 => known(v.lookup_acquire(ROOT_INO, &name).and_then(|a| {
                            let mut data = [0; 5000];
                            let len = v.read(a.ino, 0, &mut data)?;
                            assert!(len == 0 || data.iter().all(|b| *b == data[0]));
                            v.release(a.ino, 1)
                        })),
                        3 => {
                            let mode = RenameMode::Replace;
                            known(
                                v.rename(ROOT_INO, &name, ROOT_INO, &other, mode)
                                    .map(|_| ()),
                            );
                        }
                        _ => known(v.lookup_acquire(ROOT_INO, &name).and_then(|a| {
                            let linked = v.link(a.ino, ROOT_INO, &other).map(|_| ());
                            v.release(a.ino, 1)?;
                            linked
                        })),
                    }
                }
            });
        }
    });
    for n in 0..5 {
        // Not all of them are there.
        let _ = v.unlink(ROOT_INO, &[b'a' + n]);
    }
    assert_eq!((v.held(), v.orphans()), (0, 0));
    assert_eq!(free(&v), before);
}
