// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! Items that must stay what they are, asked for over one connection.

use super::{App, Witness, PATIENCE};
use crate::apps::digest;
use crate::apps::memcached::Memcached;
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Result};
use std::net::Ipv4Addr;

const ITEMS: usize = 5_000;

pub const MEMCACHED: App = App {
    name: "memcached",
    unit: Some("memcached"),
    configure:
        "sed -i 's/^-l .*/-l 0.0.0.0/' /etc/memcached.conf; echo '-t 4' >> /etc/memcached.conf",
    prepare: |_, _| Ok(()),
    begin,
};

struct Held {
    client: Memcached,
    items: String,
}

fn begin(_: &Lab, _: &Guest, host: Ipv4Addr) -> Result<Box<dyn Witness>> {
    let mut client = Memcached::connect(host)?;
    client.limit(PATIENCE)?;
    client.fill(7, ITEMS, 2900)?;
    let items = digest(&client.items("item-")?);
    Ok(Box::new(Held { client, items }))
}

impl Witness for Held {
    fn goes_on(&mut self, _: &Guest) -> Result<()> {
        ensure!(
            digest(&self.client.items("item-")?) == self.items,
            "the items differ"
        );
        Ok(())
    }

    fn end(mut self: Box<Self>, guest: &Guest) -> Result<String> {
        self.goes_on(guest)?;
        Ok(format!("{ITEMS} items are the same, over one connection"))
    }
}
