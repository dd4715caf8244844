// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Many threads at once.

use crate::fixture::{unable, Mount};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A small generator, one for each thread: runs are the same but for the threads' order.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What a file holds is told by its first 8 bytes; anything else in it is torn.
fn contents(tag: u64, len: usize) -> Vec<u8> {
    let mut data = vec![(tag % 251) as u8; len.max(8)];
    data[..8].copy_from_slice(&tag.to_le_bytes());
    data
}

fn whole(data: &[u8]) -> bool {
    let Some(tag) = data.first_chunk() else {
        return data.is_empty();
    };
    let fill = (u64::from_le_bytes(*tag) % 251) as u8;
    data[8..].iter().all(|b| *b == fill)
}

fn churn(root: &Path, thread: u64, steps: u64) {
    let mut random = Random(thread * 7919 + 17);
    let dir = |n: u64| root.join(format!("dir{n}"));
    let own = root.join(format!("own{thread}"));
    fs::create_dir(&own).expect("mkdir");
    for step in 0..steps {
        let shared = dir(random.below(4)).join(format!("f{}", random.below(20)));
        let mine = own.join(format!("f{}", random.below(30)));
        match random.below(9) {
            // Written aside and moved into place: readers see a whole file, old or new.
            0 | 1 => {
                let new = own.join("new");
                let len = random.below(150_000) as usize;
                let data = contents(thread << 32 | step, len);
                fs::write(&new, data).expect("write");
                fs::rename(&new, &shared).expect("rename over");
            }
            2 | 3 => {
                if let Ok(mut file) = File::open(&shared) {
                    let mut data = Vec::new();
                    file.read_to_end(&mut data).expect("read");
                    assert!(whole(&data), "{}: torn", shared.display());
                }
            }
            // Others may have been faster.
            4 => drop(fs::remove_file(&shared)),
            5 => drop(fs::hard_link(
                &shared,
                dir(random.below(4)).join(format!("l{thread}")),
            )),
            6 => {
                for entry in fs::read_dir(dir(random.below(4))).expect("readdir") {
                    let entry = entry.expect("entry");
                    // It may be gone by now.
                    let _ = entry.metadata();
                }
            }
            7 => {
                let mut file = File::create(&mine).expect("create");
                let data = contents(step, random.below(60_000) as usize);
                file.write_all(&data).expect("write");
                file.set_len(data.len() as u64 / 2).expect("truncate");
                drop(file);
                let back = fs::read(&mine).expect("read");
                assert!(back == data[..data.len() / 2]);
            }
            _ => {
                let sub = own.join("sub");
                fs::create_dir(&sub).expect("mkdir");
                fs::write(sub.join("x"), "x").expect("write");
                fs::rename(&sub, root.join(format!("moved{thread}"))).expect("move out");
                fs::remove_dir_all(root.join(format!("moved{thread}"))).expect("rm -r");
            }
        }
    }
}

#[test]
fn eight_threads_of_churn() {
    if unable() {
        return;
    }
    let mut mount = Mount::new(256 << 20);
    // The inode table grows and keeps its pages: let it grow first.
    for n in 0..1000 {
        fs::write(mount.path(&format!("f{n}")), "").expect("create");
    }
    for n in 0..1000 {
        fs::remove_file(mount.path(&format!("f{n}"))).expect("unlink");
    }
    let before = mount.free();
    for n in 0..4 {
        fs::create_dir(mount.path(&format!("dir{n}"))).expect("mkdir");
    }
    let root = mount.path("");
    std::thread::scope(|s| {
        for thread in 0..8 {
            let root = &root;
            s.spawn(move || churn(root, thread, 600));
        }
    });
    // The same tree after a remount, and not a page lost when it is gone.
    let list = |mount: &Mount| {
        let mut names = Vec::new();
        let mut todo = vec![mount.path("")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).expect("readdir") {
                let entry = entry.expect("entry");
                let meta = entry.metadata().expect("stat");
                if meta.is_dir() {
                    todo.push(entry.path());
                } else {
                    assert!(
                        whole(&fs::read(entry.path()).expect("read")) || meta.len() < 8 || {
                            // Own files were cut in half.
                            entry.path().to_string_lossy().contains("own")
                        }
                    );
                }
                names.push((entry.path(), meta.len()));
            }
        }
        names.sort();
        names
    };
    let tree = list(&mount);
    mount.unmount();
    mount.mount("");
    assert!(list(&mount) == tree);
    for entry in fs::read_dir(mount.path("")).expect("readdir") {
        fs::remove_dir_all(entry.expect("entry").path()).expect("rm -r");
    }
    assert_eq!(mount.free(), before, "pages lost");
}

#[test]
fn one_file_under_readers_and_writers_of_whole_pages() {
    if unable() {
        return;
    }
    let mount = Mount::new(64 << 20);
    let path = mount.path("f");
    fs::write(&path, vec![0; 64 * 4096]).expect("write");
    std::thread::scope(|s| {
        for t in 1..=4u64 {
            let path = &path;
            s.spawn(move || {
                let mut random = Random(t);
                let file = File::options()
                    .read(true)
                    .write(true)
                    .open(path)
                    .expect("open");
                for _ in 0..2000 {
                    let at = random.below(64) * 4096;
                    if random.below(2) == 0 {
                        file.write_all_at(&[t as u8; 4096], at).expect("write");
                    } else {
                        let mut page = [0xff; 4096];
                        file.read_exact_at(&mut page, at).expect("read");
                        // Words are not torn, pages may be.
                        for word in page.chunks_exact(8) {
                            assert!(word.iter().all(|b| *b == word[0] && *b <= 4));
                        }
                    }
                }
            });
        }
    });
}
