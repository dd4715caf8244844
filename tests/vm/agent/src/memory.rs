// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init memory fill|check SEED ADDRESS SIZE`: a pattern in physical memory, every word of it
//! different, to see whether anything wrote over it. `/init hold SIZE`: a process with that much
//! memory of its own, to be checkpointed.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

struct Mapping {
    words: *mut u64,
    count: usize,
}

impl Mapping {
    fn new(address: u64, size: u64) -> io::Result<Mapping> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/mem")?;
        let (length, offset) = (size as usize, address as libc::off_t);
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let words = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping {
            words: words.cast(),
            count: length / 8,
        })
    }

    fn fill(&self, seed: u64) {
        for at in 0..self.count {
            // SAFETY: inside the mapping, which lives as long as the process.
            unsafe { self.words.add(at).write_volatile(word(seed, at)) };
        }
    }

    fn differing(&self, seed: u64) -> usize {
        // SAFETY: as above.
        let differs =
            |at: &usize| unsafe { self.words.add(*at).read_volatile() } != word(seed, *at);
        (0..self.count).filter(differs).count()
    }
}

fn word(seed: u64, at: usize) -> u64 {
    (seed ^ at as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
}

/// Prints how many words differ after `check`.
pub fn main(args: &[String]) -> Result<(), String> {
    let usage = || "usage: /init memory fill|check SEED ADDRESS SIZE".to_owned();
    let [action, seed, address, size] = args else {
        return Err(usage());
    };
    let number = |text: &String| {
        let (digits, radix) = text
            .strip_prefix("0x")
            .map_or((text.as_str(), 10), |hex| (hex, 16));
        u64::from_str_radix(digits, radix).map_err(|error| format!("{text}: {error}"))
    };
    let seed = number(seed)?;
    let mapping = Mapping::new(number(address)?, number(size)?);
    let mapping = mapping.map_err(|error| format!("/dev/mem: {error}"))?;
    match action.as_str() {
        "fill" => mapping.fill(seed),
        "check" => println!("{}", mapping.differing(seed)),
        _ => return Err(usage()),
    }
    Ok(())
}

fn number(text: &String) -> Result<u64, String> {
    let (digits, radix) = text
        .strip_prefix("0x")
        .map_or((text.as_str(), 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).map_err(|error| format!("{text}: {error}"))
}

/// Fills memory and waits for good.
pub fn hold(args: &[String]) -> Result<(), String> {
    let [size] = args else {
        return Err("usage: /init hold SIZE".to_owned());
    };
    let words: Vec<u64> = (0..number(size)? as usize / 8)
        .map(|at| word(1, at))
        .collect();
    loop {
        // Looked at, so that nothing is optimised away.
        std::hint::black_box(&words);
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}
