// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A server of several processes, asked again and again: over one connection, and over a new one each time.

use super::{App, Witness, PATIENCE};
use crate::apps::connect;
use crate::apps::crowd::Crowd;
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

pub const NGINX: App = App {
    name: "nginx",
    unit: Some("nginx"),
    // At another port it asks itself, over a connection of its own each time.
    configure: "echo 'keepalive_timeout 3600; proxy_connect_timeout 300; proxy_read_timeout 300; \
                server { listen 81; location / { proxy_pass http://127.0.0.1; } }' > /etc/nginx/conf.d/lab.conf
                sed -i '/^[[:space:]]*keepalive_timeout/d' /etc/nginx/nginx.conf",
    prepare: |_, _| Ok(()),
    begin,
};

const VISITORS: usize = 3;

struct Browser {
    crowds: [Crowd; 2],
    connection: BufReader<TcpStream>,
    page: Vec<u8>,
    times: usize,
}

fn begin(_: &Lab, _: &Guest, host: Ipv4Addr) -> Result<Box<dyn Witness>> {
    let stream = connect(host, 80)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut browser = Browser {
        crowds: [80, 81].map(|port| Crowd::start((host, port).into(), VISITORS, PATIENCE)),
        connection: BufReader::new(stream),
        page: Vec::new(),
        times: 0,
    };
    browser.page = browser.get()?;
    Ok(Box::new(browser))
}

impl Browser {
    fn get(&mut self) -> Result<Vec<u8>> {
        let request = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
        self.connection.get_mut().write_all(request)?;
        let mut line = String::new();
        self.connection.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "{line:?}");
        let mut length = None;
        while line != "\r\n" {
            line.clear();
            ensure!(
                self.connection.read_line(&mut line)? > 0,
                "the connection was closed"
            );
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut page = vec![0; length.context("no content-length")?];
        self.connection.read_exact(&mut page)?;
        self.times += 1;
        Ok(page)
    }
}

impl Witness for Browser {
    fn goes_on(&mut self, _: &Guest) -> Result<()> {
        ensure!(self.get()? == self.page, "another page");
        let mut crowds = self.crowds.iter();
        crowds.try_for_each(|crowd| crowd.wait(20, PATIENCE))
    }

    fn end(mut self: Box<Self>, guest: &Guest) -> Result<String> {
        // What a visitor met says more than that one went home.
        let gone_on = self.goes_on(guest);
        let mut seen = Vec::new();
        for crowd in self.crowds {
            let crowd = crowd.finish()?;
            seen.push(format!(
                "{} (of which one took {:.1} s)",
                crowd.visits,
                crowd.longest.as_secs_f64()
            ));
        }
        gone_on?;
        Ok(format!(
            "the same page {} times over one connection, and {} times over a new one each",
            self.times,
            seen.join(" and ")
        ))
    }
}
