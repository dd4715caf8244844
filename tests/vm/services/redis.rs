// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A client that counts, and keys that must stay what they are.

use super::{App, Witness, PATIENCE};
use crate::apps::counter::Counter;
use crate::apps::redis::Redis;
use crate::apps::{digest, Fingerprints};
use crate::lab::{Guest, Lab};
use anyhow::{ensure, Result};
use std::net::Ipv4Addr;

const KEYS: usize = 15_000;

pub const REDIS: App = App {
    name: "redis",
    unit: Some("redis-server"),
    // Its package gives it users of its own, which CRIU cannot restore.
    configure: "sed -i 's/^bind .*/bind 0.0.0.0/; s/^protected-mode yes/protected-mode no/; s/^# save \"\"/save \"\"/; \
                s/^logfile .*/logfile \"\"/' /etc/redis/redis.conf
                mkdir -p /etc/systemd/system/redis-server.service.d
                printf '[Service]\\nPrivateUsers=no\\n' > /etc/systemd/system/redis-server.service.d/kup.conf",
    prepare: |_, _| Ok(()),
    begin,
};

struct Held {
    host: Ipv4Addr,
    counter: Counter,
    keys: String,
}

fn begin(_: &Lab, _: &Guest, host: Ipv4Addr) -> Result<Box<dyn Witness>> {
    Redis::connect(host)?.fill(7, KEYS, 2900)?;
    Ok(Box::new(Held {
        host,
        keys: keys(host)?,
        counter: Counter::start(host, PATIENCE)?,
    }))
}

/// A digest of all keys.
pub fn keys(host: Ipv4Addr) -> Result<String> {
    let items: Fingerprints = Redis::connect(host)?.items("key:")?;
    Ok(digest(&items))
}

impl Witness for Held {
    fn goes_on(&mut self, _: &Guest) -> Result<()> {
        self.counter.wait(20, PATIENCE)?;
        ensure!(keys(self.host)? == self.keys, "the keys differ");
        Ok(())
    }

    fn end(self: Box<Self>, _: &Guest) -> Result<String> {
        ensure!(keys(self.host)? == self.keys, "the keys differ");
        let counted = self.counter.finish()?;
        Ok(format!(
            "{KEYS} keys are the same; {} counts over one connection, the longest wait {:.1} s",
            counted.counts,
            counted.gap.as_secs_f64()
        ))
    }
}
