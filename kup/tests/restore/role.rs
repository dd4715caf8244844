// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What this program does when it is started as something other than a test: the supervisor, or CRIU
//! with the processes that it restores. Both want a process with one thread, which a test has not.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use kup::foam::restore::{hard_to_kill, Area, Listener, Memory};
use serde::{Deserialize, Serialize};

use crate::app;
use crate::random::{mix, Random};
use crate::system::{self, PAGE};

/// What the restored processes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Play {
    /// Anything.
    Random,
    /// All threads read the same pages.
    Crowd,
    /// As that; and CRIU's last word waits for it.
    Patient,
    /// Read all, and see SIGBUS where it must be.
    Bad,
    /// The first is killed for its bad pages, the others read all.
    Killed,
    /// Nothing.
    Idle,
    /// The supervisor is killed when all are restored.
    Orphans,
    /// CRIU hangs up before its last word, or within a message.
    HangUp,
    HalfADescriptor,
    /// CRIU restores a process that no one knows of.
    Stranger,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scenario {
    pub seed: u64,
    pub dir: PathBuf,
    pub play: Play,
    pub processes: usize,
    pub threads: u64,
    /// Of each thread.
    pub pages: u64,
    pub sums: bool,
    /// Some pages are not what their sums say; or the file ends early.
    pub spoil: bool,
    pub truncate: bool,
    pub old_kernel: bool,
}

/// The pid of a process in CRIU's images: no one's here.
pub fn pid(process: usize) -> i32 {
    5_000_000 + process as i32
}

impl Scenario {
    pub fn new(seed: u64) -> Scenario {
        Scenario {
            seed,
            dir: PathBuf::new(),
            play: Play::Random,
            processes: 3,
            threads: 1 + seed % 3,
            pages: 512 + seed % 2 * 512,
            sums: seed % 2 == 0,
            spoil: false,
            truncate: false,
            old_kernel: false,
        }
    }

    /// Where a thread's memory is; it has the 4 GiB from there for itself.
    pub fn base(&self, process: usize, thread: u64) -> u64 {
        ((process as u64 + 1) << 36) + (thread << 32)
    }

    /// Is a page of a thread's memory in the file? Runs of pages are or are not.
    pub fn in_file(&self, page: u64) -> bool {
        let run = [1, 7, 100, 512][(self.seed % 4) as usize];
        mix(self.seed.wrapping_mul(77) ^ (page / PAGE / run)) % 4 != 0
    }

    /// What a word of a page is, by the page's address in the file.
    pub fn word(&self, page: u64, index: u64) -> u64 {
        mix(self.seed << 56 ^ page | index)
    }

    pub fn areas(&self, process: usize) -> Vec<Area> {
        let mut areas: Vec<Area> = Vec::new();
        for thread in 0..self.threads {
            let base = self.base(process, thread);
            for start in (base..base + self.pages * PAGE).step_by(PAGE as usize) {
                if self.in_file(start) {
                    match areas.last_mut() {
                        Some(last) if last.end == start => last.end += PAGE,
                        _ => areas.push(Area {
                            start,
                            end: start + PAGE,
                        }),
                    }
                }
            }
        }
        // Nothing is mapped here: memory that the images have and CRIU did not register.
        let nowhere = self.base(process, self.threads);
        areas.push(Area {
            start: nowhere,
            end: nowhere + 9 * PAGE,
        });
        areas
    }

    /// Is this page of the file not what it should be?
    pub fn is_bad(&self, process: usize, page: u64) -> bool {
        let spoilt =
            self.spoil && mix(page ^ 5) % 50 == 0 && (self.play != Play::Killed || process == 0);
        spoilt || self.truncate && page >= self.file_end(process)
    }

    /// All that will be found, once everything that is registered was looked at.
    pub fn bad_pages(&self) -> Vec<(i32, u64)> {
        let mut bad = Vec::new();
        for process in 0..self.processes {
            for area in self.areas(process) {
                // What is not mapped cannot be marked.
                if area.start != self.base(process, self.threads) {
                    let pages = (area.start..area.end).step_by(PAGE as usize);
                    bad.extend(
                        pages
                            .filter(|page| self.is_bad(process, *page))
                            .map(|page| (pid(process), page)),
                    );
                }
            }
        }
        bad
    }

    fn file_end(&self, process: usize) -> u64 {
        let nowhere = self.base(process, self.threads);
        match self.truncate {
            true => self.base(process, self.threads - 1) + self.pages * PAGE * 3 / 4,
            false => nowhere + 9 * PAGE,
        }
    }

    fn memory(&self, process: usize) -> Memory {
        let (file, sums) = (system::memfd(), system::memfd());
        let areas = self.areas(process);
        for area in &areas {
            let words = |page: u64| (0..PAGE / 8).map(move |index| self.word(page, index));
            for page in (area.start..area.end).step_by(PAGE as usize) {
                let mut bytes: Vec<u8> = words(page).flat_map(u64::to_le_bytes).collect();
                let sum = match crc32fast::hash(&bytes) {
                    0 => u32::MAX,
                    // Now and then a page has no sum.
                    _ if mix(page ^ 3) % 7 == 0 && !self.spoil => 0,
                    sum => sum,
                };
                if self.spoil && self.is_bad(process, page) {
                    bytes[(page / PAGE) as usize % PAGE as usize] ^= 1;
                }
                file.write_all_at(&bytes, page).unwrap();
                sums.write_all_at(&sum.to_le_bytes(), page / PAGE * 4)
                    .unwrap();
            }
        }
        file.set_len(self.file_end(process)).unwrap();
        Memory {
            pid: pid(process),
            file,
            sums: self.sums.then_some(sums),
            areas,
        }
    }
}

/// The variable that says what to be.
const ROLE: &str = "KUP_TEST_ROLE";

pub fn command(role: &str, scenario: &Scenario) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env(
        ROLE,
        format!("{role} {}", serde_json::to_string(scenario).unwrap()),
    );
    command
}

/// Runs before `main`, where the test harness would start threads.
#[used]
#[link_section = ".init_array"]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let Ok(text) = std::env::var(ROLE) else {
        return;
    };
    let good = std::panic::catch_unwind(|| {
        system::limit_time();
        std::env::remove_var(ROLE);
        // As the runtime does it, which did not begin yet.
        system::ignore_broken_pipes();
        let (role, scenario) = text.split_once(' ').unwrap();
        let scenario: Scenario = serde_json::from_str(scenario).unwrap();
        match role {
            "supervisor" => supervise(&scenario),
            _ => restore(&scenario),
        }
    });
    std::process::exit(if matches!(good, Ok(true)) { 0 } else { 1 });
}

/// The supervisor; leaves its outcome or its error in a file.
fn supervise(scenario: &Scenario) -> bool {
    let memories = (0..scenario.processes)
        .map(|process| scenario.memory(process))
        .collect();
    // A container may not let us be spared.
    let _ = hard_to_kill();
    let mut listener = Listener::bind(&scenario.dir).unwrap();
    if scenario.old_kernel {
        listener = listener.without_poison();
    }
    File::create(scenario.dir.join("listens")).unwrap();
    let mut last = 0;
    let outcome = listener.supervise(memories, |progress| {
        assert!(progress.bytes_done <= progress.bytes_total);
        assert!(progress.faults >= last);
        last = progress.faults;
    });
    assert!(!scenario.dir.join("lazy-pages.socket").exists());
    // Nothing is left behind: no descriptor, no daemon.
    let left = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let left = left.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let left: Vec<_> = left
        .filter(|link| link.to_string_lossy().contains("userfaultfd"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        std::fs::read_to_string("/proc/self/task/self/children").unwrap_or_default(),
        ""
    );
    match outcome {
        Ok(outcome) => {
            let text = serde_json::to_string(&outcome).unwrap();
            std::fs::write(scenario.dir.join("outcome"), text).unwrap();
            true
        }
        Err(error) => {
            std::fs::write(scenario.dir.join("error"), format!("{error:#}")).unwrap();
            false
        }
    }
}

/// CRIU: starts the processes one by one, which register their memory and say so, and says the last
/// word when all have. Are all happy?
fn restore(scenario: &Scenario) -> bool {
    let mut criu = UnixStream::connect(scenario.dir.join("lazy-pages.socket")).unwrap();
    let mut random = Random(scenario.seed);
    let mut pids = Vec::new();
    criu.write_all(&(-4_000_000i32).to_ne_bytes()).unwrap();
    for process in 0..scenario.processes {
        let (mut ready, mut is_ready) = UnixStream::pair().unwrap();
        let app = system::fork(|| {
            let uffd = system::userfaultfd();
            for thread in 0..scenario.threads {
                system::map(scenario.base(process, thread), scenario.pages * PAGE);
            }
            let announced = if scenario.play == Play::Stranger && process == 1 {
                31_337
            } else {
                pid(process)
            };
            criu.write_all(&announced.to_ne_bytes()).unwrap();
            if scenario.play == Play::HalfADescriptor && process == 1 {
                is_ready.write_all(&[0]).unwrap();
                return true;
            }
            system::send_fd(&criu, &uffd);
            // Later than the descriptor is sent, as in CRIU.
            for thread in 0..scenario.threads {
                system::register(&uffd, scenario.base(process, thread), scenario.pages * PAGE);
            }
            drop(uffd);
            is_ready.write_all(&[0]).unwrap();
            let good = app::run(scenario, process);
            let _ = is_ready.write_all(&[0]);
            good
        });
        pids.push(app);
        ready.read_exact(&mut [0]).unwrap();
        if scenario.play == Play::Patient {
            // A task that CRIU waits for may wait for its memory.
            ready.read_exact(&mut [0]).unwrap();
        }
        // Some run for a while before the next is there.
        std::thread::sleep(std::time::Duration::from_micros(random.below(3000)));
        if matches!(
            scenario.play,
            Play::HangUp | Play::HalfADescriptor | Play::Stranger
        ) && process == 1
        {
            break;
        }
    }
    // The children have the connection as well, and hang up when they end: CRIU's end is what counts.
    let ends_early = matches!(scenario.play, Play::HangUp | Play::HalfADescriptor);
    if !ends_early {
        // The supervisor may have hung up on the stranger.
        let _ = criu.write_all(&0x5253_5446u32.to_ne_bytes());
        File::create(scenario.dir.join("finished")).unwrap();
    }
    let _ = criu.shutdown(std::net::Shutdown::Both);
    drop(criu);
    let ends: Vec<_> = pids.into_iter().map(system::wait).collect();
    let good = ends
        .iter()
        .enumerate()
        .all(|(process, end)| match scenario.play {
            Play::Killed if process == 0 => [-libc::SIGBUS, -libc::SIGKILL].contains(end),
            _ => *end == 0,
        });
    if !good {
        eprintln!("seed {}: {ends:?}", scenario.seed);
    }
    good
}
