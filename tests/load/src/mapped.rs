// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A file that is mapped: what was stored through the mapping is in the file at once, whatever else is done
//! to the file meanwhile.

use crate::{data, Fate, Load, Rng};
use nix::fcntl::{fallocate, FallocateFlags};
use nix::sys::mman::{mmap, msync, munmap, MapFlags, MsFlags, ProtFlags};
use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

/// Bytes of a file: more than one huge page of a mapping.
const SIZE: usize = 5 << 20;

#[derive(Clone, Debug)]
enum Op {
    Store { at: usize, data: Vec<u8> },
    Write { at: usize, data: Vec<u8> },
    Punch { at: usize, len: usize },
    Sync,
    Compare { at: usize, len: usize },
    Remap,
}

impl Op {
    fn apply(&self, content: &mut [u8]) {
        match self {
            Op::Store { at, data } | Op::Write { at, data } => {
                content[*at..][..data.len()].copy_from_slice(data);
            }
            Op::Punch { at, len } => content[*at..][..*len].fill(0),
            Op::Sync | Op::Compare { .. } | Op::Remap => {}
        }
    }
}

/// The mapping of a whole file.
struct Mapping(NonNull<c_void>);

// SAFETY: only an address, of memory that the value alone uses.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &File) -> io::Result<Mapping> {
        let len = NonZeroUsize::new(SIZE).expect("not 0");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that keeps its size.
        let base = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file.as_fd(), 0) };
        Ok(Mapping(base?))
    }

    fn word(&self, at: usize) -> *mut u64 {
        assert!(at % 8 == 0 && at < SIZE, "whole words of the file");
        self.0.as_ptr().cast::<u64>().wrapping_add(at / 8)
    }

    fn store(&self, at: usize, data: &[u8]) {
        for (n, word) in data.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().expect("8 bytes"));
            // SAFETY: inside the mapping, which lives as long as `self`.
            unsafe { self.word(at + n * 8).write_volatile(word) };
        }
    }

    fn holds(&self, at: usize, data: &[u8]) -> bool {
        let word = |n| {
            // SAFETY: as for `store`.
            unsafe { self.word(at + n * 8).read_volatile() }.to_ne_bytes()
        };
        data.chunks_exact(8)
            .enumerate()
            .all(|(n, expected)| word(n) == expected)
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping is whole as long as `self` lives.
        Ok(unsafe { msync(self.0, SIZE, MsFlags::MS_SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody else has the address.
        let _ = unsafe { munmap(self.0, SIZE) };
    }
}

struct Mapper {
    name: String,
    random: Rng,
    file: Option<(File, Mapping)>,
    content: Vec<u8>,
    flight: Option<Op>,
}

#[must_use]
pub fn start(threads: u64, random: &mut Rng) -> Vec<Box<dyn Load>> {
    let one = |n| -> Box<dyn Load> {
        Box::new(Mapper {
            name: format!("mapped{n}"),
            random: Rng(random.word()),
            file: None,
            content: vec![0; SIZE],
            flight: None,
        })
    };
    (0..threads).map(one).collect()
}

impl Mapper {
    fn choose(&mut self) -> Op {
        let random = &mut self.random;
        let most = *random.pick(&[64, 4096, 4096, 60_000]);
        let mut len = 8 * (1 + random.below(most / 8)) as usize;
        let mut at = 8 * random.below(((SIZE - len) / 8) as u64) as usize;
        match random.below(24) {
            0..=13 => Op::Store {
                at,
                data: random.bytes(len),
            },
            14..=17 => Op::Write {
                at,
                data: random.bytes(len),
            },
            18..=19 => {
                if random.one_in(2) {
                    (at, len) = (at - at % 4096, len.next_multiple_of(4096));
                }
                len = len.min(SIZE - at);
                Op::Punch { at, len }
            }
            20 => Op::Sync,
            21..=22 => Op::Compare { at, len },
            _ => Op::Remap,
        }
    }

    fn act(&mut self, root: &Path, op: &Op) -> io::Result<()> {
        if self.file.is_none() || matches!(op, Op::Remap) {
            self.file = None;
            let path = root.join(&self.name);
            let file = File::options().read(true).write(true).open(path)?;
            let mapping = Mapping::new(&file)?;
            self.file = Some((file, mapping));
        }
        let (file, mapping) = self.file.as_ref().expect("opened just now");
        match op {
            Op::Store { at, data } => mapping.store(*at, data),
            Op::Write { at, data } => file.write_all_at(data, *at as u64)?,
            Op::Punch { at, len } => fallocate(
                file.as_fd(),
                FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                *at as libc::off_t,
                *len as libc::off_t,
            )?,
            Op::Sync => mapping.sync()?,
            Op::Compare { at, len } => {
                let mut data = vec![0; *len];
                file.read_exact_at(&mut data, *at as u64)?;
                let expected = &self.content[*at..][..*len];
                assert!(
                    data == expected,
                    "{}: read is not what was stored",
                    self.name
                );
                assert!(mapping.holds(*at, expected), "{}: mapped is not", self.name);
            }
            Op::Remap => {}
        }
        Ok(())
    }
}

impl Load for Mapper {
    fn prepare(&self, root: &Path) {
        let file = File::create(root.join(&self.name)).expect("create");
        file.set_len(SIZE as u64).expect("truncate");
    }

    fn step(&mut self, root: &Path) -> bool {
        let op = self.choose();
        if let Err(e) = self.act(root, &op) {
            panic!("{}: {op:?}: {e}", self.name);
        }
        op.apply(&mut self.content);
        true
    }

    fn follow(&mut self) {
        let op = self.choose();
        op.apply(&mut self.content);
    }

    fn follow_under_way(&mut self) {
        self.flight = Some(self.choose());
    }

    fn check(&mut self, root: &Path) -> Result<Fate, String> {
        self.file = None;
        let found = fs::read(root.join(&self.name)).map_err(|e| format!("{}: {e}", self.name))?;
        let old = std::mem::replace(&mut self.content, found);
        let mut new = old.clone();
        let flight = self.flight.take();
        if let Some(op) = &flight {
            op.apply(&mut new);
        }
        data::judge(&data::Steps::Words, &old, &new, &self.content)
            .map(|fate| if flight.is_some() { fate } else { Fate::None })
            .map_err(|e| {
                let what = match &flight {
                    Some(Op::Store { at, data }) => format!("store {} at {at}", data.len()),
                    Some(Op::Write { at, data }) => format!("write {} at {at}", data.len()),
                    other => format!("{other:?}"),
                };
                format!("{}: {what} under way: {e}", self.name)
            })
    }
}
