// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! The kernel module against what a user would take instead, in one guest, in turns.

use super::{criu, Measure, Pairs, Settings};
use crate::host;
use crate::kmod;
use crate::lab::{Boot, Guest, Lab, Region, Size};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Of the kernel's source, what is unpacked: 4,200 files, 90 MiB.
const UNPACKED: [&str; 4] = ["fs", "kernel", "lib", "mm"];
const ARCHIVE: &str = "usr/lib/source.tar";

/// Programs that people run: work done, as a rate.
type Application = (&'static str, fn(&Guest, &str) -> Result<f64>);

const APPLICATIONS: [Application; 3] = [("untar", untar), ("fs_mark", fs_mark), ("dbench", dbench)];

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
        .program("fsmark", "fs_mark")
        .program("dbench", "dbench")
        .program("dbench", "/usr/share/dbench/client.txt")
        .program("tar", "tar")
        .file(ARCHIVE, &archive(&lab, &release)?)
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
    measures.extend(applications(&guest, settings.rounds)?);
    guest.check()?;
    drop(guest);
    measures.extend(mounts(&lab, &release, &module, settings.rounds)?);
    measures.extend(criu::module(settings)?);
    Ok(measures)
}

/// An archive of a part of the kernel's source.
fn archive(lab: &Lab, release: &str) -> Result<PathBuf> {
    let source = kmod::source(lab.cache(), lab.kernels()?, release)?;
    let path = lab.dir().join("source.tar");
    fs::create_dir_all(lab.dir())?;
    let mut tar = host::command("tar", ["-c", "--sort=name", "--mtime=@0", "-C"]);
    tar.arg(source).arg("-f").arg(&path);
    tar.args(["--exclude=*.o", "--exclude=.*"]).args(UNPACKED);
    host::quiet(&mut tar)?;
    Ok(path)
}

fn applications(guest: &Guest, rounds: usize) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for (name, run) in APPLICATIONS {
        let mut rates: [Vec<f64>; PLACES.len()] = Default::default();
        for _ in 0..rounds {
            for ((_, dir, _), rates) in PLACES.iter().zip(&mut rates) {
                let dir = format!("{dir}/{name}");
                guest.run(format!("mkdir {dir} && sync"))?;
                rates.push(run(guest, &dir).with_context(|| dir.clone())?);
                guest.run(format!("rm -r {dir}"))?;
            }
        }
        measures.extend(against_ours(name, &rates));
    }
    Ok(measures)
}

fn untar(guest: &Guest, dir: &str) -> Result<f64> {
    let tar = guest.command(format!("tar -xf /{ARCHIVE} -C {dir}"));
    Ok(1.0 / tar.timeout(300).succeed()?.seconds())
}

fn fs_mark(guest: &Guest, dir: &str) -> Result<f64> {
    let run = guest.command(format!(
        "cd /tmp && fs_mark -d {dir} -n 2000 -s 4096 -S 0 -t 2 -L 1"
    ));
    Ok(1.0 / run.timeout(300).succeed()?.seconds())
}

fn dbench(guest: &Guest, dir: &str) -> Result<f64> {
    let run = guest.command(format!(
        "dbench -D {dir} -t 5 -c /usr/share/dbench/client.txt 2 2>&1"
    ));
    let said = run.timeout(120).run()?;
    let line = said.lines().find(|line| line.starts_with("Throughput"));
    let word = line.and_then(|line| line.split(' ').nth(1));
    Ok(word.context("no throughput")?.parse()?)
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
        measures.extend(against_ours(name, rates));
    }
    Ok(measures)
}

/// Of the rates of each place, round by round, ours against each of the others.
fn against_ours(name: &str, rates: &[Vec<f64>; PLACES.len()]) -> Vec<Measure> {
    let others = PLACES.iter().zip(rates).skip(1);
    let measure = |((place, _, _), theirs): (&(&str, &str, &str), &Vec<f64>)| {
        let rounds = rates[0].iter().zip(theirs);
        let pairs: Pairs = rounds.map(|(ours, theirs)| (*ours, *theirs)).collect();
        pairs.measure(format!("kmod.{name}_vs_{place}"), "1/s")
    };
    others.map(measure).collect()
}
