// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `cargo xtask`: the demo, the tests, the benchmarks and the lab of virtual machines.

mod apps;
mod bench;
mod demo;
mod figures;
mod fio;
mod host;
mod kmod;
mod lab;
mod msrv;
mod panics;
#[path = "../../tests/vm/mod.rs"]
mod scenarios;
mod setup;
mod test;
mod timeline;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Carry redis and memcached, connections and all, over a kernel update in a guest
    Demo(demo::Demo),
    /// Run the tests: style, units, suites, and the scenarios under real kernels
    Test(test::Test),
    /// Measure ourselves against what a user would take instead
    Bench(bench::Bench),
    /// Guests with stock Debian kernels: a shell in one, or a scenario
    #[command(subcommand)]
    Vm(vm::Task),
    /// Build the kernel module for stock Debian kernels
    Kmod(kmod::Kmod),
    /// Install what building and the lab need on this machine
    Setup,
}

fn main() -> Result<()> {
    // The errors say where they come from themselves.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
    match Args::parse().task {
        Task::Demo(demo) => demo.run(),
        Task::Test(test) => test.run(),
        Task::Bench(bench) => bench.run(),
        Task::Vm(task) => vm::run(task),
        Task::Kmod(kmod) => kmod.run(),
        Task::Setup => setup::all(),
    }
}
