// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The restored processes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::model::Model;
use crate::random::Random;
use crate::role::{Play, Scenario};
use crate::system::{self, PAGE};

/// What a thread does at least, and what more it does once everything is filled.
const STEPS: u64 = 300;
const STEPS_AFTER: u64 = 150;

/// Returns whether all was as it must be.
pub fn run(scenario: &Scenario, process: usize) -> bool {
    match scenario.play {
        Play::Random | Play::Orphans => {
            in_threads(scenario, |thread| anything(scenario, process, thread))
        }
        Play::Patient if process == 0 && !unmapped_under_a_fault(scenario) => false,
        Play::Crowd | Play::Patient => {
            in_threads(scenario, |thread| crowd(scenario, process, thread))
        }
        Play::Bad => bad(scenario, process),
        Play::Killed if process > 0 => {
            in_threads(scenario, |thread| anything(scenario, process, thread))
        }
        Play::Killed => {
            wait_for(&scenario.dir.join("drained"));
            false
        }
        Play::Idle => {
            wait_for(&scenario.dir.join("drained"));
            true
        }
        Play::HangUp | Play::HalfADescriptor | Play::Stranger => {
            // No value is right or wrong here, but to hang is.
            let pages = Model::new(scenario, process, 0).addresses();
            pages.into_iter().for_each(|addr| {
                system::load(addr);
            });
            true
        }
    }
}

fn wait_for(file: &Path) {
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn in_threads(scenario: &Scenario, body: impl Fn(u64) + Sync) -> bool {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..scenario.threads)
            .map(|thread| scope.spawn(move || body(thread)))
            .collect();
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().is_ok())
            .collect();
        !ends.contains(&false)
    })
}

/// Random deeds, each thread in memory of its own.
fn anything(scenario: &Scenario, process: usize, thread: u64) {
    let mut random = Random(scenario.seed << 32 ^ (process as u64) << 16 ^ thread);
    let mut model = Model::new(scenario, process, thread);
    let drained = scenario.dir.join("drained");
    // Some processes end before all is filled.
    let leaves = scenario.processes > 1 && process % 5 == 2;
    let mut children = Vec::new();
    let (mut steps, mut after) = (0, 0);
    while after < STEPS_AFTER && !model.is_empty() {
        step(&mut model, &mut random, &mut children, 2);
        steps += 1;
        if leaves && steps == STEPS {
            break;
        }
        if after > 0 || steps >= STEPS && steps % 16 == 0 && drained.exists() {
            after += 1;
        } else if steps > STEPS {
            // Leaves something for the drain to meet.
            std::thread::sleep(Duration::from_micros(random.below(500)));
        }
    }
    finish(&mut model, children);
}

/// Compares all there is, and asks the children what they found.
fn finish(model: &mut Model, children: Vec<i32>) {
    model
        .addresses()
        .into_iter()
        .for_each(|addr| model.check(addr));
    wait_for_all(children);
}

fn wait_for_all(children: Vec<i32>) {
    for child in children {
        assert_eq!(
            system::wait(child),
            0,
            "a child saw what it should not have"
        );
    }
}

fn step(model: &mut Model, random: &mut Random, children: &mut Vec<i32>, depth: u32) {
    if model.is_empty() {
        return;
    }
    let (start, len) = model.some(random, 16);
    match random.below(64) {
        0..16 => model.check_word(start, random.below(PAGE / 8)),
        16..20 => model.check(start),
        20..24 => model.check_by_kernel(start),
        24..36 => model.write(start, random.below(PAGE / 8), random.next()),
        36..40 => model.zap(start, len),
        40..42 => model.free(start, len),
        42..44 => {
            let (start, len) = model.some(random, 4);
            model.unmap(start, len);
        }
        44..50 => {
            let new_len = match random.below(3) {
                0 => len,
                1 => 1 + random.below(len / PAGE),
                _ => len / PAGE + random.below(8),
            };
            let new_len = if new_len == len { len } else { new_len * PAGE };
            let dont_unmap = new_len == len && random.one_in(3);
            if let Some(to) = model.room(new_len) {
                model.remap(start, len, Some(to), new_len, dont_unmap);
            }
        }
        50..52 => {
            if let Some((from, to, len)) = model.two(random, 16) {
                model.remap(from, len, Some(to), len, false);
            }
        }
        52..54 => {
            // In place: shrinks, or grows if there is room.
            let (_, room) = model.some(random, 8);
            let new_len = if random.one_in(2) { len + room } else { PAGE };
            model.remap(start, len, None, new_len, false);
        }
        54..58 => {
            let prot = if random.one_in(2) {
                libc::PROT_READ
            } else {
                libc::PROT_NONE
            };
            system::protect(start, len, prot);
            if prot == libc::PROT_READ {
                model.check(start);
            }
            system::protect(start, len, libc::PROT_READ | libc::PROT_WRITE);
            model.check(start);
        }
        58..60 => {
            let advice = if random.one_in(2) {
                libc::MADV_HUGEPAGE
            } else {
                libc::MADV_NOHUGEPAGE
            };
            // Not every kernel has huge pages.
            let _ = system::advise(start, len, advice);
        }
        60..61 if depth > 0 && children.len() < 6 => {
            let mut random = Random(random.next());
            let mut model = model.clone();
            children.push(system::fork(move || {
                let mut children = Vec::new();
                for _ in 0..random.below(100) {
                    step(&mut model, &mut random, &mut children, depth - 1);
                }
                // Most look at a part only: every page costs a fault.
                if random.one_in(6) {
                    finish(&mut model, children);
                } else {
                    for _ in 0..100.min(model.len()) {
                        let (addr, _) = model.some(&mut random, 1);
                        model.check(addr);
                    }
                    wait_for_all(children);
                }
                true
            }));
        }
        _ => {
            if random.one_in(8) {
                std::thread::sleep(Duration::from_micros(random.below(300)));
            }
        }
    }
}

/// All threads read all memory of the process, in an order of their own.
fn crowd(scenario: &Scenario, process: usize, thread: u64) {
    let mut random = Random(scenario.seed ^ thread << 8);
    let mut model: Vec<_> = (0..scenario.threads)
        .map(|thread| Model::new(scenario, process, thread))
        .collect();
    for model in &mut model {
        let mut pages = model.addresses();
        for last in (1..pages.len()).rev() {
            pages.swap(last, random.below(last as u64 + 1) as usize);
        }
        // Threads that begin alike meet on the same pages.
        if thread % 2 == 0 {
            pages.sort_unstable();
        }
        pages.into_iter().for_each(|addr| model.check(addr));
    }
}

/// Reads all; what is bad must be an error, in this process and in a child, and all else be good.
fn bad(scenario: &Scenario, process: usize) -> bool {
    let look = |forwards: bool| {
        for thread in 0..scenario.threads {
            let mut model = Model::new(scenario, process, thread);
            let mut pages = model.addresses();
            if !forwards {
                pages.reverse();
            }
            for addr in pages {
                if scenario.in_file(addr) && scenario.is_bad(process, addr) {
                    let error =
                        system::kernel_reads(addr).expect_err("a bad page was given as good");
                    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
                } else {
                    model.check(addr);
                }
            }
        }
    };
    let bad = scenario
        .areas(process)
        .into_iter()
        .flat_map(|area| (area.start..area.end).step_by(PAGE as usize));
    let bad = bad
        .filter(|addr| scenario.is_bad(process, *addr))
        .find(|addr| *addr < scenario.base(process, scenario.threads));
    let child = system::fork(|| {
        look(false);
        true
    });
    let victim = system::fork(|| {
        system::load(bad.unwrap());
        true
    });
    look(true);
    wait_for(&scenario.dir.join("drained"));
    look(true);
    assert_eq!(system::wait(victim), -libc::SIGBUS);
    system::wait(child) == 0
}

/// A thread that waits for a page which another thread unmaps must not wait for ever: it has no memory
/// there, and that ends its process, unless it was first.
fn unmapped_under_a_fault(scenario: &Scenario) -> bool {
    let pages = Model::new(scenario, 0, 0).addresses();
    let tries = pages.into_iter().take(120).map(|addr| {
        let child = system::fork(|| {
            let ready = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !ready.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    (0..addr / PAGE % 64 * 64).for_each(|_| std::hint::spin_loop());
                    system::unmap(addr, PAGE);
                });
                ready.store(true, Ordering::Release);
                system::load(addr);
            });
            true
        });
        system::wait(child)
    });
    let ends: Vec<_> = tries.collect();
    ends.iter().all(|end| [0, -libc::SIGSEGV].contains(end))
}
