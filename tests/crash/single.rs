// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Sequences of length 1: each operation with the choices of arguments that matter.

use fs_core::layout::INODES_PER_PAGE;
use fs_core::{Error, Fallocate, Region, RenameMode, SetAttr, S_IFCHR, S_IFIFO};
use rpramfs_tests::crash::{resolve, run, Act, Case, Effort, World};
use rpramfs_tests::fixture::{format, mount};
use rpramfs_tests::host::{set_cpu, Rng, TestHost};
use rpramfs_tests::mem::MemRegion;
use rpramfs_tests::script::*;

type R0 = Result<(), Error>;

const ALLOCATE: Fallocate = Fallocate::Allocate { keep_size: false };
const KEEP: Fallocate = Fallocate::Allocate { keep_size: true };
const PUNCH: Fallocate = Fallocate::PunchHole;
const ZERO: Fallocate = Fallocate::ZeroRange { keep_size: false };
const MIB: u64 = 1 << 20;

fn nothing(_: &World<'_>) -> R0 {
    Ok(())
}

/// A few of each kind, so that neighbours can be hurt.
fn base(w: &World<'_>) -> R0 {
    mkdir(w, "d")?;
    mkdir(w, "e")?;
    file(w, "f", 10_000)?;
    link(w, "f", "d/hard")?;
    file(w, "d/g", 4096)?;
    symlink(w, "s", 20)?;
    setxattr(w, "f", "user.small", 30)
}

fn name(i: usize, len: usize) -> String {
    format!("{i:0len$}")
}

/// Inodes to be had only from the list of another CPU, more than are moved at once.
fn freed_elsewhere(w: &World<'_>) -> R0 {
    const FREED: usize = 20;
    // Our own CPU has a page of inodes that were never used: they go first.
    for i in 0.. {
        if touch(w, &name(i, 4))? % INODES_PER_PAGE == INODES_PER_PAGE - 1 && i >= FREED {
            break;
        }
    }
    set_cpu(1);
    let freed = (0..FREED).try_for_each(|i| remove(w, &name(i, 4)));
    set_cpu(0);
    freed
}

fn crowd(w: &World<'_>, dir: &str, n: usize, len: usize) -> R0 {
    for i in 0..n {
        let path = format!("{dir}/{}", name(i, len));
        if i == 0 {
            touch(w, &path)?;
        } else {
            link(w, &format!("{dir}/{}", name(0, len)), &path)?;
        }
    }
    Ok(())
}

/// How many names of that length a directory takes before it needs one page more than `pages`.
fn names_before_growth(len: usize, pages: u64) -> usize {
    let host = TestHost::new(1);
    let mem = MemRegion::new(64 * MIB);
    format(&mem, &host);
    let fs = mount(&mem, host).expect("mount");
    mkdir(&fs, "d").expect("mkdir");
    let dir = resolve(&fs, "d").expect("d");
    let first = touch(&fs, &format!("d/{}", name(0, len))).expect("touch");
    for i in 1.. {
        fs.link(first, dir, name(i, len).as_bytes()).expect("link");
        if fs.getattr(dir).expect("getattr").pages > pages {
            return i;
        }
    }
    unreachable!()
}

/// How many extents a file takes before it needs one metadata page more than `pages`.
fn extents_before_growth(pages: u64) -> u64 {
    let host = TestHost::new(1);
    let mem = MemRegion::new(64 * MIB);
    format(&mem, &host);
    let fs = mount(&mem, host).expect("mount");
    let ino = touch(&fs, "f").expect("touch");
    for i in 0.. {
        write_ino(&fs, ino, i * 8192, 4096, 1).expect("write");
        if fs.getattr(ino).expect("getattr").pages > i + 1 + pages {
            return i;
        }
    }
    unreachable!()
}

fn names() -> Vec<Case> {
    let mut v = vec![
        Case::new("create in the empty root", nothing, |w| {
            touch(w, "a").map(drop)
        }),
        Case::new("create", base, |w| touch(w, "d/new").map(drop)),
        Case::new("create, longest name", base, |w| {
            touch(w, &format!("d/{}", "n".repeat(255))).map(drop)
        }),
        Case::new("create where the name exists", base, |w| {
            touch(w, "f").map(drop)
        })
        .fails(),
        Case::new(
            "create in a set-group-ID directory",
            |w| {
                base(w)?;
                let set = SetAttr {
                    mode: Some(0o2775),
                    gid: Some(7),
                    ..SetAttr::default()
                };
                w.setattr(resolve(w, "d")?, &set).map(drop)
            },
            |w| mkdir(w, "d/new").map(drop),
        ),
        Case {
            bytes: 16 * MIB,
            ..Case::new(
                "create from inodes that were freed on another CPU",
                freed_elsewhere,
                |w| touch(w, "new").map(drop),
            )
        },
        Case::new("mkdir", base, |w| mkdir(w, "d/new").map(drop)),
        Case::new("mknod device", base, |w| {
            mknod(w, "d/new", S_IFCHR | 0o600).map(drop)
        }),
        Case::new("mknod fifo", base, |w| {
            mknod(w, "d/new", S_IFIFO | 0o600).map(drop)
        }),
        Case::new("tmpfile", base, |w| tmpfile(w, "d").map(drop)),
        Case::new("symlink, inline target", base, |w| symlink(w, "d/new", 112)),
        Case::new("symlink, target in a page", base, |w| {
            symlink(w, "d/new", 113)
        }),
        Case::new("symlink, longest target", base, |w| {
            symlink(w, "d/new", 4095)
        }),
        Case::new("symlink too long", base, |w| symlink(w, "d/new", 4096)).fails(),
        Case::new("link, same directory", base, |w| link(w, "f", "f2")),
        Case::new("link, other directory", base, |w| link(w, "f", "e/f2")),
        Case::new(
            "unlink, the last name of an empty file",
            |w| touch(w, "a").map(drop),
            |w| unlink(w, "a").map(drop),
        ),
        Case::new("unlink, the last name, held", base, |w| {
            unlink(w, "d/g").map(drop)
        }),
        Case::new("unlink, one of two names", base, |w| {
            unlink(w, "f").map(drop)
        }),
        Case::new("unlink a symlink", base, |w| unlink(w, "s").map(drop)),
        Case::new("rmdir", base, |w| rmdir(w, "e").map(drop)),
        Case::new("rmdir, not empty", base, |w| rmdir(w, "d").map(drop)).fails(),
    ];
    let replace = RenameMode::Replace;
    let renames: &[(&str, &str, &str, RenameMode)] = &[
        ("same directory, new name", "f", "f2", replace),
        ("other directory, new name", "f", "e/f2", replace),
        ("same directory, over a file", "f", "s", replace),
        ("other directory, over a file held", "f", "d/g", replace),
        ("over another name of the same file", "f", "d/hard", replace),
        ("over a file that has another name", "d/g", "f", replace),
        ("onto itself", "f", "f", replace),
        ("directory, new name", "e", "e2", replace),
        ("directory into another", "e", "d/e", replace),
        ("directory over an empty one", "d", "e", replace),
        ("noreplace", "f", "d/new", RenameMode::NoReplace),
        ("exchange, same directory", "f", "s", RenameMode::Exchange),
        (
            "exchange, other directory",
            "f",
            "d/g",
            RenameMode::Exchange,
        ),
        ("exchange directories", "d", "e", RenameMode::Exchange),
        (
            "exchange a directory and a file below another",
            "e",
            "d/g",
            RenameMode::Exchange,
        ),
        ("whiteout, same directory", "f", "f2", WHITEOUT),
        ("whiteout, other directory", "f", "d/f2", WHITEOUT),
        ("whiteout, over a file", "f", "d/g", WHITEOUT),
        ("whiteout, directory", "e", "d/e", WHITEOUT),
    ];
    for &(what, old, new, mode) in renames {
        v.push(Case::new(format!("rename, {what}"), base, move |w| {
            rename(w, old, new, mode)
        }));
    }
    v.push(
        Case::new("rename over a directory that is not empty", base, |w| {
            rename(w, "e", "d", RenameMode::Replace)
        })
        .fails(),
    );
    v
}

fn tables() -> Vec<Case> {
    let mut v = Vec::new();
    for n in [13usize, 14, 15, 16, 30, 31, 45, 62] {
        v.push(Case::new(
            format!("create the inode behind {n} others"),
            move |w| {
                mkdir(w, "d")?;
                for i in 0..n {
                    touch(w, &format!("d/{i}"))?;
                }
                Ok(())
            },
            |w| {
                touch(w, "d/x")?;
                Ok(())
            },
        ));
    }
    for n in [3u64, 20] {
        v.push(Case::new(
            format!("create with an inode number used {n} times"),
            move |w| {
                for i in 0..n {
                    file(w, "a", 5000)?;
                    setxattr(w, "a", "user.x", i as usize)?;
                    remove(w, "a")?;
                }
                Ok(())
            },
            |w| touch(w, "a").map(drop),
        ));
    }
    v
}

/// Directories at the moment their tree splits, or loses a page.
fn big_directories() -> Vec<Case> {
    let mut v = Vec::new();
    for (len, pages) in [(20, 1), (255, 1), (12, 3), (255, 6), (255, 40)] {
        let n = names_before_growth(len, pages);
        let bytes = 8 * MIB;
        for (what, more) in [("at", 0), ("just before", 1)] {
            v.push(
                Case::new(
                    format!("create {what} a split, names of {len}, {pages} pages"),
                    move |w| {
                        mkdir(w, "d")?;
                        mkdir(w, "e")?;
                        crowd(w, "d", n - more, len)
                    },
                    move |w| touch(w, &format!("d/{}", name(n - more, len))).map(drop),
                )
                .on(bytes),
            );
        }
        v.push(
            Case::new(
                format!("rename within a directory about to split, names of {len}, {pages} pages"),
                move |w| {
                    mkdir(w, "d")?;
                    crowd(w, "d", n, len)
                },
                move |w| {
                    let (a, b) = (name(n / 2, len), name(n + 5, len));
                    rename(w, &format!("d/{a}"), &format!("d/{b}"), RenameMode::Replace)
                },
            )
            .on(bytes),
        );
        v.push(
            Case::new(
                format!("rename into a directory about to split, names of {len}, {pages} pages"),
                move |w| {
                    mkdir(w, "d")?;
                    mkdir(w, "e")?;
                    crowd(w, "d", n, len)?;
                    mkdir(w, "e/sub").map(drop)
                },
                move |w| {
                    let b = name(n, len);
                    rename(w, "e/sub", &format!("d/{b}"), WHITEOUT)
                },
            )
            .on(bytes),
        );
        for left in [1usize, n / 2] {
            v.push(
                Case::new(
                    format!("unlink, {left} names of {len} left of {pages} pages"),
                    move |w| {
                        mkdir(w, "d")?;
                        mkdir(w, "e")?;
                        crowd(w, "d", n + 1, len)?;
                        for i in (left + 1..=n).rev() {
                            unlink(w, &format!("d/{}", name(i, len)))?;
                        }
                        Ok(())
                    },
                    move |w| unlink(w, &format!("d/{}", name(left, len))).map(drop),
                )
                .on(bytes),
            );
        }
        v.push(
            Case::new(
                format!("unlink the last name of {len} of {pages} pages"),
                move |w| {
                    mkdir(w, "d")?;
                    crowd(w, "d", n + 1, len)?;
                    for i in 1..=n {
                        unlink(w, &format!("d/{}", name(i, len)))?;
                    }
                    Ok(())
                },
                move |w| unlink(w, &format!("d/{}", name(0, len))).map(drop),
            )
            .on(bytes),
        );
    }
    // Every second one away: leaves become empty one after the other.
    v.push(
        Case::new(
            "evict a directory that had many pages",
            |w| {
                mkdir(w, "d")?;
                crowd(w, "d", 400, 30)?;
                for i in 0..400 {
                    unlink(w, &format!("d/{}", name(i, 30)))?;
                }
                Ok(())
            },
            |w| {
                let ino = rmdir(w, "d")?;
                w.evict(ino)
            },
        )
        .on(4 * MIB),
    );
    v
}

fn attributes() -> Vec<Case> {
    vec![
        Case::new("setattr mode", base, |w| {
            let set = SetAttr {
                mode: Some(0o4711),
                ..SetAttr::default()
            };
            w.setattr(resolve(w, "f")?, &set).map(drop)
        }),
        Case::new("setattr everything but the size", base, |w| {
            let set = SetAttr {
                mode: Some(0o600),
                uid: Some(5),
                gid: Some(6),
                size: None,
                atime: Some(-1),
                mtime: Some(i64::MAX),
                ctime: Some(3),
            };
            w.setattr(resolve(w, "f")?, &set).map(drop)
        }),
        Case::new("touch atime", base, |w| {
            w.touch_atime(resolve(w, "f")?, i64::MAX / 2)
        }),
        Case::new("first xattr", base, |w| setxattr(w, "d/g", "user.a", 10)),
        Case::new("second xattr", base, |w| setxattr(w, "f", "user.b", 10)),
        Case::new("xattr of a directory", base, |w| {
            setxattr(w, "d", "trusted.b", 100)
        }),
        Case::new("xattr replaced", base, |w| {
            setxattr(w, "f", "user.small", 31)
        }),
        Case::new("xattr of a page", base, |w| {
            setxattr(w, "f", "user.b", 4096)
        }),
        Case::new("largest xattr", base, |w| {
            setxattr(w, "f", "user.b", 65_536)
        }),
        Case::new("xattr too large", base, |w| {
            setxattr(w, "f", "user.b", 65_537)
        })
        .fails(),
        Case::new(
            "large xattr replaced by a small one",
            |w| {
                base(w)?;
                setxattr(w, "f", "user.b", 60_000)
            },
            |w| setxattr(w, "f", "user.b", 10),
        ),
        Case::new(
            "large xattr replaced by a larger one",
            |w| {
                base(w)?;
                setxattr(w, "f", "user.b", 20_000)
            },
            |w| setxattr(w, "f", "user.b", 40_000),
        ),
        Case::new("last xattr removed", base, |w| {
            removexattr(w, "f", "user.small")
        }),
        Case::new(
            "large xattr removed",
            |w| {
                base(w)?;
                setxattr(w, "f", "user.b", 50_000)
            },
            |w| removexattr(w, "f", "user.b"),
        ),
        Case::new(
            "block of xattrs overflows",
            |w| {
                base(w)?;
                for i in 0..3 {
                    setxattr(w, "f", &format!("user.{i}"), 1200)?;
                }
                Ok(())
            },
            |w| setxattr(w, "f", "user.more", 900),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let mut v = Vec::new();
    let truncs: &[(&str, u64)] = &[
        ("up", 20_000),
        ("up to the greatest size", (1 << 63) - 1),
        ("down within the last page", 9000),
        ("down to a page", 8192),
        ("down into a page", 5000),
        ("down to one byte", 1),
        ("to nothing", 0),
        ("to the same size", 10_000),
    ];
    for &(what, size) in truncs {
        v.push(Case::new(format!("truncate {what}"), base, move |w| {
            truncate(w, "f", size)
        }));
    }
    v.push(Case::new(
        "truncate down, then up",
        |w| {
            base(w)?;
            truncate(w, "f", 5000)
        },
        |w| truncate(w, "f", 6000),
    ));
    for n in [3u64, 4, 5, 8, 9, 10, 30, 170] {
        for (what, size) in [("nothing", 0), ("the middle", n * 4096 + 100)] {
            v.push(
                Case::new(
                    format!("truncate {n} extents to {what}"),
                    move |w| {
                        base(w)?;
                        comb(w, "c", n).map(drop)
                    },
                    move |w| truncate(w, "c", size),
                )
                .on(4 * MIB),
            );
        }
        v.push(
            Case::new(
                format!("punch {n} extents"),
                move |w| {
                    base(w)?;
                    comb(w, "c", n).map(drop)
                },
                move |w| fallocate(w, "c", PUNCH, 4096, n * 8192),
            )
            .on(4 * MIB),
        );
        v.push(
            Case::new(
                format!("unlink and evict {n} extents"),
                move |w| {
                    base(w)?;
                    comb(w, "c", n)?;
                    setxattr(w, "c", "user.x", 5000)
                },
                move |w| remove(w, "c"),
            )
            .on(4 * MIB),
        );
        v.push(
            Case::remount(format!("mount with an orphan of {n} extents"), move |w| {
                base(w)?;
                comb(w, "c", n)?;
                setxattr(w, "c", "user.x", 5000)?;
                unlink(w, "c").map(drop)
            })
            .on(4 * MIB),
        );
    }
    v
}

fn writes() -> Vec<Case> {
    let mut v = vec![
        Case::new(
            "write one byte to an empty file",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", 0, 1, 9),
        ),
        Case::new(
            "write a page to an empty file",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", 0, 4096, 9),
        ),
        Case::new(
            "write 8 pages to an empty file",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", 0, 32_768, 9),
        ),
        Case::new(
            "write 9 pages to an empty file",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", 0, 36_864, 9),
        )
        .loose(&["a"]),
        Case::new(
            "write 100 pages to an empty file",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", 0, 409_600, 9),
        )
        .loose(&["a"]),
        Case::new(
            "write 3 MiB across chunks",
            |w| touch(w, "a").map(drop),
            |w| write(w, "a", MIB, 3 << 20, 9),
        )
        .on(8 * MIB)
        .loose(&["a"]),
        Case::new("append within the last page", base, |w| {
            write(w, "f", 10_000, 500, 9)
        }),
        Case::new("append over the last page", base, |w| {
            write(w, "f", 10_000, 5000, 9)
        }),
        Case::new("append unaligned, one byte", base, |w| {
            write(w, "f", 10_001, 1, 9)
        }),
        Case::new("write behind the end, in the last page", base, |w| {
            write(w, "f", 11_000, 500, 9)
        }),
        Case::new("write behind the end, a hole between", base, |w| {
            write(w, "f", 100_000, 5000, 9)
        }),
        Case::new("write at 2^47", base, |w| {
            write(w, "f", (1 << 47) - 4096, 4096, 9)
        }),
        Case::new("write up to the greatest offset", base, |w| {
            write(w, "f", (1 << 63) - 1 - 100, 100, 9)
        }),
        Case::new("overwrite bytes", base, |w| write(w, "f", 100, 50, 9)).loose(&["f"]),
        Case::new("overwrite all", base, |w| write(w, "f", 0, 10_000, 9)).loose(&["f"]),
        Case::new("overwrite in place", base, |w| {
            // Only a file whose time is this tick's is overwritten without a transaction.
            write(w, "f", 0, 1, 9)?;
            w.overwrite(resolve(w, "f")?, 8, &[7; 6000])
                .map(|done| assert!(done))
        })
        .loose(&["f"]),
        Case::new("overwrite and extend", base, |w| {
            write(w, "f", 9000, 9000, 9)
        })
        .loose(&["f"]),
        Case::new(
            "write into a hole",
            |w| {
                base(w)?;
                comb(w, "c", 3).map(drop)
            },
            |w| write(w, "c", 4096, 4096, 9),
        ),
        Case::new(
            "write part of a hole",
            |w| {
                base(w)?;
                comb(w, "c", 3).map(drop)
            },
            |w| write(w, "c", 5000, 100, 9),
        ),
        Case::new(
            "write over data and holes",
            |w| {
                base(w)?;
                comb(w, "c", 5).map(drop)
            },
            |w| write(w, "c", 1000, 30_000, 9),
        )
        .loose(&["c"]),
        Case::new("copy range", base, |w| {
            w.copy_range(resolve(w, "f")?, 100, resolve(w, "d/g")?, 4096, 5000)
                .map(drop)
        })
        .loose(&["d/g"]),
        Case::new(
            "copy a large range with holes",
            |w| {
                base(w)?;
                comb(w, "c", 20).map(drop)
            },
            |w| {
                w.copy_range(resolve(w, "c")?, 0, resolve(w, "d/g")?, 1000, 500_000)
                    .map(drop)
            },
        )
        .loose(&["d/g"]),
    ];
    for (what, offset, len) in [
        ("all", 0, 40_960),
        ("the front", 0, 4096),
        ("the middle", 8192, 4096),
        ("the end", 36_864, 4096),
        ("bytes in the middle", 9000, 100),
        ("bytes over two pages", 8100, 200),
        ("pages and bytes", 4000, 9000),
    ] {
        v.push(Case::new(
            format!("write into {what} of an unwritten extent"),
            |w| {
                base(w)?;
                touch(w, "u")?;
                fallocate(w, "u", ALLOCATE, 0, 40_960)
            },
            move |w| write(w, "u", offset, len, 9),
        ));
        v.push(Case::new(
            format!("write into {what} of an unwritten extent behind the end"),
            |w| {
                base(w)?;
                touch(w, "u")?;
                fallocate(w, "u", KEEP, 0, 40_960)
            },
            move |w| write(w, "u", offset, len, 9),
        ));
    }
    for pages in [0, 1, 2, 3] {
        let n = extents_before_growth(pages);
        v.push(
            Case::new(
                format!("the extent that is one too many, {pages} nodes before"),
                move |w| comb(w, "c", n).map(drop),
                move |w| write(w, "c", n * 8192, 4096, 9),
            )
            .on(8 * MIB),
        );
        v.push(
            Case::new(
                format!("a hole that splits the extent that is one too many, {pages} nodes before"),
                move |w| {
                    let ino = comb(w, "c", n - 1)?;
                    write_ino(w, ino, n * 8192, 16_384, 5)
                },
                move |w| fallocate(w, "c", PUNCH, n * 8192 + 4096, 4096),
            )
            .on(8 * MIB),
        );
        v.push(
            Case::new(
                format!("extents lose a node, {pages} nodes before"),
                move |w| {
                    comb(w, "c", n + 1)?;
                    for i in (2..=n).rev() {
                        fallocate(w, "c", PUNCH, i * 8192, 4096)?;
                    }
                    Ok(())
                },
                move |w| fallocate(w, "c", PUNCH, 8192, 4096),
            )
            .on(8 * MIB),
        );
    }
    v
}

/// What a page fault that stores asks for, and what a write leaves whose source ends in the middle.
fn mappings() -> Vec<Case> {
    let map = |page: u64, pages: u64| {
        move |w: &World<'_>| w.map_written(resolve(w, "a")?, page, pages).map(drop)
    };
    let sparse = |w: &World<'_>| {
        touch(w, "a")?;
        truncate(w, "a", 100_000)
    };
    let unwritten = move |w: &World<'_>| {
        sparse(w)?;
        fallocate(w, "a", KEEP, 0, 100_000)
    };
    let mut v = vec![
        Case::new("map a page of a hole", sparse, map(3, 1)),
        Case::new("map 20 pages of a hole", sparse, map(3, 20)).loose(&["a"]),
        Case::new("map the last page of a hole", sparse, map(24, 512)),
        Case::new("map a page that is unwritten", unwritten, map(3, 1)),
        Case::new("map 20 pages that are unwritten", unwritten, map(3, 20)),
        Case::new("map what is there", base, |w| {
            w.map_written(resolve(w, "f")?, 1, 1).map(drop)
        }),
        Case::new("map behind the end", base, |w| {
            w.map_written(resolve(w, "f")?, 3, 1).map(drop)
        })
        .fails(),
        Case::new(
            "zero behind the size",
            |w| {
                base(w)?;
                truncate(w, "f", 5000)
            },
            |w| w.zero_behind_size(resolve(w, "f")?),
        ),
    ];
    for whole in [0, 5, 20] {
        let case = Case::new(
            format!("write of 20 pages whose source ends behind {whole}"),
            sparse,
            move |w| {
                let bytes = whole * 4096;
                let page = Rng(7).bytes(4096);
                let wrote = w.write_with(resolve(w, "a")?, 0, 81_920, &|to, pos, n| {
                    // A run is stored whole or not at all.
                    if pos + n > bytes {
                        return Err(Error::Fault);
                    }
                    (0..n)
                        .step_by(4096)
                        .try_for_each(|at| w.region().write(to + at, &page))
                });
                match wrote {
                    Err(Error::Fault) => Ok(()),
                    other => other.map(drop),
                }
            },
        );
        v.push(case.loose(&["a"]));
    }
    v
}

fn allocations() -> Vec<Case> {
    let mut v = Vec::new();
    let some: &[(&str, Fallocate, u64, u64, bool)] = &[
        (
            "allocate a page behind the end",
            ALLOCATE,
            12_288,
            4096,
            true,
        ),
        ("allocate bytes of a page", ALLOCATE, 12_300, 10, true),
        ("allocate over all", ALLOCATE, 0, 40_960, true),
        ("allocate 200 pages", ALLOCATE, 0, 819_200, true),
        ("allocate, keeping the size", KEEP, 0, 40_960, true),
        ("punch a page", PUNCH, 4096, 4096, false),
        ("punch bytes", PUNCH, 5000, 100, true),
        ("punch all", PUNCH, 0, 12_288, false),
        ("punch over edges", PUNCH, 3000, 6000, true),
        ("punch behind the end", PUNCH, 20_000, 6000, false),
        ("zero a page", ZERO, 4096, 4096, true),
        ("zero bytes", ZERO, 5000, 100, true),
        ("zero over edges and the end", ZERO, 3000, 30_000, true),
        (
            "zero, keeping the size",
            Fallocate::ZeroRange { keep_size: true },
            3000,
            30_000,
            true,
        ),
    ];
    for &(what, mode, offset, len, loose) in some {
        let case = Case::new(what, base, move |w| fallocate(w, "f", mode, offset, len));
        v.push(if loose { case.loose(&["f"]) } else { case });
    }
    v.push(
        Case::new(
            "zero range over many extents",
            |w| {
                base(w)?;
                comb(w, "c", 12).map(drop)
            },
            |w| fallocate(w, "c", ZERO, 4096, 80_000),
        )
        .loose(&["c"]),
    );
    v.push(
        Case::new(
            "allocate over many extents",
            |w| {
                base(w)?;
                comb(w, "c", 12).map(drop)
            },
            |w| fallocate(w, "c", ALLOCATE, 0, 98_304),
        )
        .loose(&["c"]),
    );
    // The first pages of a group nobody has used.
    v.push(
        Case::new(
            "allocate into a group never used",
            |w| {
                base(w)?;
                touch(w, "big")?;
                fallocate(w, "big", ALLOCATE, 0, (1 << 30) - 16 * MIB)
            },
            |w| fallocate(w, "big", ALLOCATE, (1 << 30) - 16 * MIB, 40 * MIB),
        )
        .on(3 << 30)
        .loose(&["big"]),
    );
    v.push(
        Case::new(
            "truncate more than 128 MiB",
            |w| {
                base(w)?;
                touch(w, "big")?;
                fallocate(w, "big", ALLOCATE, 0, 700 * MIB)
            },
            |w| truncate(w, "big", 12_345),
        )
        .on(1 << 30),
    );
    v.push(
        Case::new(
            "punch more than 128 MiB",
            |w| {
                base(w)?;
                touch(w, "big")?;
                fallocate(w, "big", ALLOCATE, 0, 700 * MIB)
            },
            |w| fallocate(w, "big", PUNCH, MIB, 500 * MIB),
        )
        .on(1 << 30),
    );
    v
}

fn full_region() -> Vec<Case> {
    fn full(w: &World<'_>) -> R0 {
        base(w)?;
        comb(w, "c", 12)?;
        fill(w, "full")
    }
    let on = |c: Case| c.on(MIB);
    vec![
        on(Case::new("full: create", full, |w| {
            if_room(touch(w, &format!("d/{}", name(1, 200))))
        })),
        on(Case::new("full: symlink", full, |w| {
            if_room(symlink(w, "d/new", 4000))
        })),
        on(Case::new("full: xattr", full, |w| {
            if_room(setxattr(w, "f", "user.b", 65_536))
        })),
        on(Case::new("full: write", full, |w| {
            if_room(write(w, "f", 50_000, 100_000, 9))
        })
        .loose(&["f"])),
        on(Case::new("full: allocate", full, |w| {
            if_room(fallocate(w, "f", ALLOCATE, 0, 50 * 4096))
        })
        .loose(&["f"])),
        on(Case::new("full: punch inside an extent", full, |w| {
            if_room(fallocate(w, "full", PUNCH, 8192, 4096))
        })),
        on(Case::new("full: rename", full, |w| {
            if_room(rename(w, "f", &format!("d/{}", name(1, 255)), WHITEOUT))
        })),
        on(Case::new(
            "full: remove the file that fills it",
            full,
            |w| remove(w, "full"),
        )),
        on(Case::new("full: truncate", full, |w| {
            truncate(w, "full", 10_000)
        })),
        on(Case::new("full: seal", full, |w| {
            if_room(w.seal(resolve(w, "full")?))
        })),
        on(Case::remount("full: mount with an orphan", |w| {
            full(w)?;
            unlink(w, "full").map(drop)
        })),
    ]
}

fn lifetimes() -> Vec<Case> {
    fn sealed(w: &World<'_>) -> R0 {
        base(w)?;
        w.seal(resolve(w, "f")?)
    }
    fn windows(w: &World<'_>) -> R0 {
        base(w)?;
        touch(w, "w")?;
        for i in 0..7 {
            write(w, "w", i * 4 * MIB + 100, 5000, i)?;
        }
        Ok(())
    }
    vec![
        Case::new("link a tmpfile", base, |w| {
            let ino = tmpfile(w, "d")?;
            write_ino(w, ino, 0, 4096, 1)?;
            link_ino(w, ino, "d/tmp")
        }),
        Case::new("evict a tmpfile", base, |w| {
            let ino = tmpfile(w, "d")?;
            write_ino(w, ino, 0, 4096, 1)?;
            w.evict(ino)
        }),
        Case::new("evict a directory", base, |w| {
            let ino = rmdir(w, "e")?;
            w.evict(ino)
        }),
        Case::new("evict a symlink", base, |w| remove(w, "s")),
        Case::new("evict what still has a name", base, |w| {
            w.evict(resolve(w, "f")?)
        }),
        Case::new("seal", base, |w| w.seal(resolve(w, "f")?)),
        Case::new(
            "seal an empty file",
            |w| touch(w, "empty").map(drop),
            |w| w.seal(resolve(w, "empty")?),
        ),
        Case::new("seal many windows", windows, |w| w.seal(resolve(w, "w")?)),
        Case::new("unseal", sealed, |w| w.unseal(resolve(w, "f")?)),
        Case::new(
            "unseal many windows",
            |w| {
                windows(w)?;
                w.seal(resolve(w, "w")?)
            },
            |w| w.unseal(resolve(w, "w")?),
        ),
        Case::new(
            "evict a sealed file",
            |w| {
                windows(w)?;
                w.seal(resolve(w, "w")?)
            },
            |w| remove(w, "w"),
        ),
        Case::remount("mount, nothing to do", base),
        Case::remount("mount with sealed orphan", |w| {
            windows(w)?;
            w.seal(resolve(w, "w")?)?;
            unlink(w, "w").map(drop)
        }),
        Case::remount("mount with a removed seal", |w| {
            windows(w)?;
            w.seal(resolve(w, "w")?)?;
            w.unseal(resolve(w, "w")?)
        }),
        Case::remount("mount with many orphans", |w| {
            base(w)?;
            for i in 0..12 {
                let ino = tmpfile(w, "d")?;
                write_ino(w, ino, 0, 100 * i, 1)?;
            }
            unlink(w, "s")?;
            rmdir(w, "e").map(drop)
        }),
        Case::remount("mount after unmount", |w| {
            base(w)?;
            w.unmount()
        }),
        Case {
            act: Act::Unmount,
            ..Case::new("unmount", base, nothing)
        },
        Case::new("xattr of the root", base, |w| {
            setxattr(w, "", "user.root", 10)
        }),
    ]
}

macro_rules! group {
    ($($test:ident = $cases:ident),* $(,)?) => {
        /// Every case there is.
        pub fn all() -> Vec<Case> {
            let mut all = Vec::new();
            $(all.extend($cases());)*
            all
        }

        $(#[test]
        fn $test() {
            run(&$cases(), &Effort::from_env()).conclude(concat!("crash: ", stringify!($cases)));
        })*
    };
}

group! {
    crash_names = names,
    crash_tables = tables,
    crash_big_directories = big_directories,
    crash_attributes = attributes,
    crash_sizes = sizes,
    crash_writes = writes,
    crash_allocations = allocations,
    crash_mappings = mappings,
    crash_full_region = full_region,
    crash_lifetimes = lifetimes,
}
