// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! `/init answers PORT REQUEST`: asks at a port of this machine until somebody answers, over a new connection
//! whenever the last was refused. Says when it was answered, in seconds since 1970.

use crate::hold::now;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(1);

pub fn main(args: &[String]) -> Result<(), String> {
    let [port, request] = args else {
        return Err("usage: /init answers PORT REQUEST".to_owned());
    };
    let number = port.parse().map_err(|e| format!("{port}: {e}"))?;
    let mut stream = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, number)) {
            Ok(stream) => break stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => sleep(TICK),
            Err(error) => return Err(format!("port {port}: {error}")),
        }
    };
    let asked = stream.write_all(format!("{request}\r\n").as_bytes());
    // Whatever comes first.
    let answered = asked.and_then(|()| stream.read_exact(&mut [0]));
    let time = now();
    answered.map_err(|e| format!("port {port}: {e}"))?;
    println!("{:.6}", time.as_secs_f64());
    Ok(())
}
