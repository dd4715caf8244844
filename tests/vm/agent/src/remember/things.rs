// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What a process has besides mappings of its own making: a heap, stacks, bytes in pipes and sockets, a signal
//! that waits, timers.

use super::random::{word, Random};
use super::system::{self, Timers};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;

const BLOCKS: usize = 150;

pub struct Things {
    /// Small enough to come from brk(2).
    heap: Vec<(u64, Vec<u64>)>,
    pipe: (File, File),
    in_pipe: (u64, u64),
    sockets: (UnixDatagram, UnixDatagram),
    in_socket: Vec<u64>,
    signal: usize,
    timers: Timers,
}

fn words(key: u64, count: u64) -> Vec<u64> {
    (0..count).map(|index| word(key, index)).collect()
}

fn bytes(key: u64, count: u64) -> Vec<u8> {
    let bytes = words(key, count).into_iter().flat_map(u64::to_ne_bytes);
    bytes.collect()
}

impl Things {
    pub fn new(random: &mut Random) -> Things {
        let mut things = Things {
            heap: Vec::new(),
            pipe: system::pipe(),
            in_pipe: (0, 0),
            sockets: UnixDatagram::pair().expect("sockets"),
            in_socket: Vec::new(),
            signal: random.next() as usize,
            timers: Timers::new(1 + random.below(1000) as i64),
        };
        for _ in 0..BLOCKS {
            things.heap.push(block(random));
        }
        things.fill_pipe(random);
        things.fill_socket(random);
        system::queue(things.signal);
        things
    }

    fn fill_pipe(&mut self, random: &mut Random) {
        self.in_pipe = (random.next() | 1, 1 + random.below(8000));
        let bytes = bytes(self.in_pipe.0, self.in_pipe.1);
        self.pipe.1.write_all(&bytes).expect("into the pipe");
    }

    fn check_pipe(&mut self) {
        let mut got = vec![0; self.in_pipe.1 as usize * 8];
        self.pipe.0.read_exact(&mut got).expect("from the pipe");
        let want = bytes(self.in_pipe.0, self.in_pipe.1);
        assert!(got == want, "other bytes come from the pipe");
    }

    fn fill_socket(&mut self, random: &mut Random) {
        for _ in 0..random.below(6) {
            let key = random.next() | 1;
            let bytes = bytes(key, 1 + key % 100);
            self.sockets.1.send(&bytes).expect("into the socket");
            self.in_socket.push(key);
        }
    }

    fn check_socket(&mut self) {
        let mut buffer = vec![0; 4096];
        for key in std::mem::take(&mut self.in_socket) {
            let n = self.sockets.0.recv(&mut buffer).expect("from the socket");
            let want = bytes(key, 1 + key % 100);
            assert!(
                buffer[..n] == want,
                "another datagram comes from the socket"
            );
        }
    }

    fn check_signal(&mut self) {
        let got = system::dequeue();
        assert_eq!(got, Some(self.signal), "the signal that waits");
    }

    pub fn step(&mut self, random: &mut Random) {
        match random.below(40) {
            0 => {
                self.check_pipe();
                self.fill_pipe(random);
            }
            1 => {
                self.check_socket();
                self.fill_socket(random);
            }
            2 => {
                self.check_signal();
                self.signal = random.next() as usize;
                system::queue(self.signal);
            }
            3 => self.timers.check(),
            4..20 => {
                let any = random.below(self.heap.len() as u64) as usize;
                check_block(&self.heap[any]);
                self.heap[any] = block(random);
            }
            _ => {
                let any = random.below(self.heap.len() as u64) as usize;
                check_block(&self.heap[any]);
            }
        }
    }

    /// Compares all of it. Afterwards nothing waits any more.
    pub fn end(mut self) {
        self.heap.iter().for_each(check_block);
        self.check_pipe();
        self.check_socket();
        self.check_signal();
        self.timers.check();
    }
}

fn block(random: &mut Random) -> (u64, Vec<u64>) {
    let key = random.next() | 1;
    (key, words(key, 1 + random.below(3000)))
}

fn check_block((key, block): &(u64, Vec<u64>)) {
    let wrong = (0..)
        .zip(block)
        .find(|(index, got)| **got != word(*key, *index));
    assert!(
        wrong.is_none(),
        "a block of the heap at {:p}, {} words: {wrong:x?}",
        block.as_ptr(),
        block.len()
    );
}

/// Does something with `depth` pages of known content on the stack above it.
pub fn on_a_stack(key: u64, depth: u64, work: &mut dyn FnMut()) {
    let mut frame = [0u64; 512];
    for (index, slot) in (0..).zip(&mut frame) {
        *slot = word(key, index);
    }
    // It is memory, and may not be what the compiler remembers of it.
    let frame = std::hint::black_box(&mut frame);
    if depth == 0 {
        work();
    } else {
        on_a_stack(key.wrapping_add(1), depth - 1, work);
    }
    let frame = std::hint::black_box(frame);
    let wrong = (0..)
        .zip(frame.iter())
        .find(|(index, got)| **got != word(key, *index));
    assert!(
        wrong.is_none(),
        "the stack at {:p}: {wrong:x?}",
        frame.as_ptr()
    );
}
