// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init` of a lab guest.
//!
//! As PID 1 it makes a small system (mounts, modules, loopback), starts itself again as the agent
//! and then does nothing but reap children: a zombie left behind would keep its PID from a later
//! restore. In a guest with a root disk it hands over to the system there, which runs the agent as one of
//! its services. The agent serves the host over a virtio port; see the library for the protocol.

mod agent;
mod answers;
mod boot;
mod failure;
mod hold;
mod holes;
mod load;
mod memory;
mod remember;
mod root_disk;
mod work;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("agent") => agent::serve().map_err(|error| error.to_string()),
        Some("answers") => answers::main(&args[1..]),
        Some("change") => remember::change(&args[1..]),
        Some("drain") => remember::drain(&args[1..]),
        Some("failure") => failure::main(&args[1..]),
        Some("hold") => hold::main(&args[1..]),
        Some("holes") => holes::main(&args[1..]),
        Some("load") => load::main(&args[1..]),
        Some("mtime") => hold::mtime(&args[1..]),
        Some("memory") => memory::main(&args[1..]),
        Some("pages") => remember::pages(&args[1..]),
        Some("remember") => remember::main(&args[1..]),
        Some("work") => work::main(&args[1..]),
        _ if std::process::id() == 1 => boot::run(),
        _ => Err("meant to be the /init of a lab guest".to_owned()),
    };
    if let Err(error) = result {
        eprintln!("lab-agent: {error}");
        std::process::exit(1);
    }
}
