// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module against what a user would take instead, in one guest, in turns.

use super::{criu, Measure, Pairs, Settings};
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

const SIZE: Size = Size::mib(512);
/// Behind the region at 4 GiB.
const PMEMS: [&str; 2] = ["memmap=512M!0x120000000", "memmap=512M!0x140000000"];

/// Name in a measure, directory, and how it comes to be; ours is the first.
const PLACES: [(&str, &str, &str); 5] = [
    ("ours", "/mnt/ours", "mkfs.rpramfs -q {SPEC} && mount -i -t rpramfs {SPEC} /mnt/ours"),
    ("tmpfs", "/mnt/tmpfs", "mount -t tmpfs -o size=512M,huge=never tmpfs /mnt/tmpfs"),
    (
        "tmpfs_huge",
        "/mnt/tmpfs_huge",
        "mount -t tmpfs -o size=512M,huge=always tmpfs /mnt/tmpfs_huge",
    ),
    (
        "ext4dax",
        "/mnt/ext4dax",
        "mkfs.ext4 -q -F -b 4096 /dev/pmem0 && mount -t ext4 -o dax /dev/pmem0 /mnt/ext4dax",
    ),
    (
        "xfsdax",
        "/mnt/xfsdax",
        "mkfs.xfs -q -f -m reflink=0 /dev/pmem1 && mount -t xfs -o dax=always /dev/pmem1 /mnt/xfsdax",
    ),
];

pub fn run(settings: &Settings) -> Result<Vec<Measure>> {
    let lab = Lab::open("bench-kmod")?;
    let kernels = lab.kernels()?;
    let release = kernels.release("7.x")?.to_owned();
    let module = kmod::module(lab.cache(), kernels, &release)?;
    let region = Region::reserved(SIZE);
    let mut boot = Boot::new(&release)
        .region(region)
        .memory(Size::gib(4))
        .module("xfs")
        .program("xfsprogs", "mkfs.xfs")
        .file("usr/lib/rpramfs.ko", &module);
    for pmem in PMEMS {
        boot = boot.argument(pmem);
    }
    let guest = lab.boot(&boot)?;
    println!("kmod: {release}");
    guest.run("insmod /usr/lib/rpramfs.ko")?;
    for (_, dir, make) in PLACES {
        let make = make.replace("{SPEC}", &region.spec());
        guest.run(format!("mkdir -p {dir} && {make}"))?;
    }
    let mut measures = works(&guest, settings.rounds)?;
    guest.check()?;
    drop(guest);
    measures.extend(mounts(&lab, &release, &module, settings.rounds)?);
    measures.extend(criu::module(settings)?);
    Ok(measures)
}

/// Mounts of a large and of a small region, as the module times them: the struct pages, which are the
/// kernel's own and grow with the region, and what is ours.
fn mounts(lab: &Lab, release: &str, module: &Path, rounds: usize) -> Result<Vec<Measure>> {
    const LARGE: Size = Size::gib(8);
    let boot = Boot::new(release)
        .region(Region::reserved(LARGE))
        .file("usr/lib/rpramfs.ko", module);
    let guest = lab.boot(&boot)?;
    guest.run("insmod /usr/lib/rpramfs.ko")?;
    let mut measures = Vec::new();
    for (option, name) in [("", ""), ("--struct-pages", "_pages_inside")] {
        let (mut claims, mut mounts) = (Pairs::default(), Pairs::default());
        for _ in 0..rounds.max(5) {
            let large = mount(&guest, LARGE, option)?;
            let small = mount(&guest, Size::gib(1), option)?;
            claims.push(large.0, small.0);
            mounts.push(large.1, small.1);
        }
        measures.push(mounts.measure(format!("kmod.mount_large_vs_1g{name}"), "us"));
        measures.push(claims.measure(format!("kmod.claim_large_vs_1g{name}"), "us"));
    }
    guest.check()?;
    Ok(measures)
}

/// Microseconds of the claim, and of the mount behind it.
fn mount(guest: &Guest, size: Size, option: &str) -> Result<(f64, f64)> {
    let spec = Region::reserved(size).spec();
    let line = guest.run(format!(
        "mkfs.rpramfs -q -f {option} {spec} && mount -i -t rpramfs {spec} /mnt && umount /mnt && \
         dmesg | grep 'rpramfs: .* claimed' | tail -n 1"
    ))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |unit: usize| -> Result<f64> {
        let at = words
            .iter()
            .enumerate()
            .filter(|(_, word)| word.trim_end_matches(',') == "us");
        let (at, _) = at.clone().nth(unit).with_context(|| line.clone())?;
        Ok(words[at - 1].parse()?)
    };
    Ok((before(0)?, before(1)?))
}

fn works(guest: &Guest, rounds: usize) -> Result<Vec<Measure>> {
    let dirs = PLACES.map(|(_, dir, _)| dir).join(" ");
    let work = guest.command(format!("/init work {rounds} {dirs}"));
    let told = work.timeout(60 + 60 * rounds as u64).succeed()?.stdout();
    // By work: the rates of each place, round by round.
    let mut rates: BTreeMap<&str, [Vec<f64>; PLACES.len()]> = BTreeMap::new();
    for line in told.lines() {
        let mut words = line.split(' ');
        let mut word = || {
            words
                .next()
                .with_context(|| format!("from the guest: {line}"))
        };
        let (name, place, seconds) = (word()?, word()?, word()?);
        let place: usize = place.parse()?;
        let seconds: f64 = seconds.parse()?;
        rates.entry(name).or_default()[place].push(1.0 / seconds);
    }
    let mut measures = Vec::new();
    for (name, rates) in &rates {
        for ((place, _, _), theirs) in PLACES.iter().zip(rates).skip(1) {
            let mut pairs = Pairs::default();
            rates[0]
                .iter()
                .zip(theirs)
                .for_each(|(ours, theirs)| pairs.push(*ours, *theirs));
            measures.push(pairs.measure(format!("kmod.{name}_vs_{place}"), "1/s"));
        }
    }
    Ok(measures)
}
