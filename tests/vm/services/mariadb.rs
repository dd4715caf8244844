// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! A bank: transfers between accounts, one transaction each, over one connection. What was committed is there, the sum
//! of all accounts is what it was.

use super::{App, Witness, PATIENCE};
use crate::apps::{lives, wait_for_more};
use crate::lab::{Guest, Lab};
use anyhow::{bail, ensure, Context, Result};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, TxOpts};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const ACCOUNTS: u64 = 100;
const EACH: u64 = 1000;

pub const MARIADB: App = App {
    name: "mariadb",
    unit: Some("mariadb"),
    // CRIU cannot dump io_uring.
    configure: "printf '[mariadbd]\\nbind-address=0.0.0.0\\ninnodb_use_native_aio=0\\n' \
                > /etc/mysql/mariadb.conf.d/60-lab.cnf",
    prepare: |_, _| Ok(()),
    begin,
};

struct Bank {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
    host: Ipv4Addr,
}

fn connect(host: Ipv4Addr) -> Result<Conn> {
    let options = OptsBuilder::new()
        .ip_or_hostname(Some(host.to_string()))
        .prefer_socket(false)
        .user(Some("bank"))
        .db_name(Some("bank"))
        .read_timeout(Some(PATIENCE));
    Ok(Conn::new(options)?)
}

fn begin(_: &Lab, guest: &Guest, host: Ipv4Addr) -> Result<Box<dyn Witness>> {
    guest.run(format!(
        "mariadb -e \"create database bank; use bank;
            create table account (id int primary key, balance bigint not null) engine=innodb;
            create table ledger (number bigint primary key) engine=innodb;
            insert into account select seq, {EACH} from seq_1_to_{ACCOUNTS};
            create user 'bank'@'%'; grant all on bank.* to 'bank'@'%'\""
    ))?;
    let mut connection = connect(host)?;
    let (stop, committed) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
    let (stop_too, committed_too) = (stop.clone(), committed.clone());
    let thread = thread::spawn(move || transfers(&mut connection, &stop_too, &committed_too));
    let mut bank = Bank {
        stop,
        committed,
        thread,
        host,
    };
    bank.wait(10)?;
    Ok(Box::new(bank))
}

/// Returns the longest wait.
fn transfers(connection: &mut Conn, stop: &AtomicBool, committed: &AtomicU64) -> Result<Duration> {
    let (mut number, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
    let identity = connection.connection_id();
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let (from, to) = (number % ACCOUNTS + 1, number * 7 % ACCOUNTS + 1);
        let mut transaction = connection.start_transaction(TxOpts::default())?;
        transaction.exec_drop(
            "update account set balance = balance - 3 where id = ?",
            (from,),
        )?;
        transaction.exec_drop(
            "update account set balance = balance + 3 where id = ?",
            (to,),
        )?;
        transaction.exec_drop("insert into ledger values (?)", (number,))?;
        transaction.commit()?;
        gap = gap.max(last.elapsed());
        last = Instant::now();
        committed.store(number, Ordering::Release);
    }
    let now: Option<u32> = connection.query_first("select connection_id()")?;
    ensure!(
        now == Some(identity),
        "another connection: {now:?}, not {identity}"
    );
    Ok(gap)
}

impl Bank {
    fn wait(&mut self, more: u64) -> Result<()> {
        wait_for_more(
            more,
            PATIENCE,
            || self.committed.load(Ordering::Acquire),
            || lives(&self.thread, "the client has lost its connection"),
            "no transaction comes to its end",
        )
    }
}

impl Witness for Bank {
    fn goes_on(&mut self, _: &Guest) -> Result<()> {
        self.wait(10)
    }

    fn end(self: Box<Self>, _: &Guest) -> Result<String> {
        self.stop.store(true, Ordering::Release);
        let gap = match self.thread.join() {
            Ok(ended) => ended?,
            Err(_) => bail!("the client panicked"),
        };
        let committed = self.committed.load(Ordering::Acquire);
        let mut connection = connect(self.host)?;
        let (rows, last): (u64, u64) = connection
            .query_first("select count(*), max(number) from ledger")?
            .context("no ledger")?;
        ensure!(
            rows == committed && last == committed,
            "{committed} transactions were committed, {rows} are there, up to {last}"
        );
        let sum: Option<u64> =
            connection.query_first("select cast(sum(balance) as unsigned) from account")?;
        ensure!(sum == Some(ACCOUNTS * EACH), "the accounts hold {sum:?}");
        Ok(format!(
            "{committed} transactions over one connection, none lost, the sum is right; the longest wait {:.1} s",
            gap.as_secs_f64()
        ))
    }
}
