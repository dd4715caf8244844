// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Physical memory, through /dev/mem.
//!
//! `/init memory fill|check SEED ADDRESS SIZE`: a pattern, every word of it different, to see
//! whether anything wrote over it. `digest ADDRESS SIZE`: a number that changes with any byte.
//! `read ADDRESS SIZE` and `write ADDRESS SIZE` copy to standard output and from standard input.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

const PAGE: u64 = 4096;

struct Mapping {
    words: *mut u64,
    count: usize,
}

impl Mapping {
    /// Maps whole words.
    fn new(address: u64, size: u64) -> io::Result<Mapping> {
        if address % 8 != 0 || size % 8 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only whole words of 8 bytes",
            ));
        }
        let file = OpenOptions::new().read(true).write(true).open("/dev/mem")?;
        let into = address % PAGE;
        let (length, offset) = ((into + size) as usize, (address - into) as libc::off_t);
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping {
            words: page.cast::<u64>().wrapping_add(into as usize / 8),
            count: size as usize / 8,
        })
    }

    fn get(&self, at: usize) -> u64 {
        assert!(at < self.count);
        // SAFETY: inside the mapping, which lives as long as the process.
        unsafe { self.words.add(at).read_volatile() }
    }

    fn set(&self, at: usize, word: u64) {
        assert!(at < self.count);
        // SAFETY: inside the mapping, which lives as long as the process.
        unsafe { self.words.add(at).write_volatile(word) };
    }

    fn fill(&self, seed: u64) {
        (0..self.count).for_each(|at| self.set(at, word(seed, at)));
    }

    fn differing(&self, seed: u64) -> usize {
        let differs = |at: &usize| self.get(*at) != word(seed, *at);
        (0..self.count).filter(differs).count()
    }

    /// Every step is a bijection of the number so far: no single change is lost.
    fn digest(&self) -> u64 {
        (0..self.count).fold(self.count as u64, |digest, at| {
            (digest ^ self.get(at))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        })
    }

    fn read(&self) -> io::Result<()> {
        let bytes: Vec<u8> = (0..self.count)
            .flat_map(|at| self.get(at).to_ne_bytes())
            .collect();
        io::stdout().write_all(&bytes)
    }

    fn write(&self) -> io::Result<()> {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        if bytes.len() != self.count * 8 {
            let text = format!("{} bytes came in", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            self.set(at, u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        }
        Ok(())
    }
}

pub fn word(seed: u64, at: usize) -> u64 {
    (seed ^ at as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
}

pub fn main(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (action, seed, address, size) = match args[..] {
        [action @ ("fill" | "check"), seed, address, size] => {
            (action, number(seed)?, address, size)
        }
        [action @ ("digest" | "read" | "write"), address, size] => (action, 0, address, size),
        _ => {
            return Err("usage: /init memory fill|check SEED ADDRESS SIZE, or \
                        /init memory digest|read|write ADDRESS SIZE"
                .to_owned())
        }
    };
    let mapping = Mapping::new(number(address)?, number(size)?);
    let mapping = mapping.map_err(|error| format!("/dev/mem: {error}"))?;
    match action {
        "fill" => mapping.fill(seed),
        "check" => println!("{}", mapping.differing(seed)),
        "digest" => println!("{:016x}", mapping.digest()),
        "read" => mapping.read().map_err(|error| error.to_string())?,
        _ => mapping.write().map_err(|error| error.to_string())?,
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).map_err(|error| format!("{text}: {error}"))
}
