// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! How much stack a call takes: the stack below it is painted, it runs, and what is no longer paint
//! was used.

const PAINT: u8 = 0xa5;
/// Left alone right below the painter's frame: its own calls.
const GAP: usize = 512;
const PAINTED: usize = 256 << 10;

/// Half of a kernel stack on x86-64; what is checked here is built with debug assertions, which
/// make frames larger. Without them no operation takes more than 6.3 KiB.
pub const OPERATION: usize = 8 << 10;

/// Paints below the caller's frame; returns where the paint ends.
#[inline(never)]
fn paint() -> usize {
    let here = 0u8;
    let top = std::hint::black_box(&raw const here) as usize - GAP;
    for at in top - PAINTED..top {
        // SAFETY: the thread's stack of 8 MiB reaches that far down, and below this frame nobody
        // has anything.
        unsafe { std::ptr::write_volatile(at as *mut u8, PAINT) };
    }
    top
}

/// How much of the paint is gone.
#[inline(never)]
fn used(top: usize) -> usize {
    let mut at = top - PAINTED;
    // SAFETY: as in `paint`; the bytes were written there.
    while at < top && unsafe { std::ptr::read_volatile(at as *const u8) } == PAINT {
        at += 1;
    }
    top - at + GAP
}

/// Stack that `f` takes, in bytes.
///
/// # Panics
/// When `f` does.
pub fn stack_of(f: &mut (dyn FnMut() + Send)) -> usize {
    std::thread::scope(|s| {
        std::thread::Builder::new()
            .stack_size(8 << 20)
            .spawn_scoped(s, || {
                let top = paint();
                f();
                used(top)
            })
            .expect("a thread")
            .join()
            .expect("no panic")
    })
}
