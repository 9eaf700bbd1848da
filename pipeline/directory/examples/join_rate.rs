//! Measures how long indexing a snapshot takes, and how many messages per second one core joins.
//! Senders and rooms are random, which is the worst case for the CPU caches:
//! `cargo run --release -p chatledger-directory --example join_rate`.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use chatledger_directory::Directory;
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{RoomKind, Snapshot};

#[path = "../tests/tenant/mod.rs"]
mod tenant;

fn main() {
    measure("small", 20, 200, 5_000);
    measure("large", 2_000, 100_000, 500_000);
}

/// Measures a company with as many rooms as members.
fn measure(name: &str, departments: u32, members: u32, customers: u32) {
    let customer_id = |n: u32| format!("wmQ3zCDAAA{n:022}");
    let room_id = |n: u32| format!("wrQ3zCDAAA{n:022}");
    let mut snapshot = Snapshot::empty(CorpId::from("wwcorp"));
    snapshot.departments = (1..=departments)
        .map(|id| tenant::department(id, id / 5, "一个部门"))
        .collect();
    snapshot.members = (0..members)
        .map(|n| tenant::member(&format!("Employee{n}"), "张三丰", &[n % departments + 1]))
        .collect();
    snapshot.customers = (0..customers)
        .map(|n| tenant::customer(&customer_id(n), "王女士"))
        .collect();
    snapshot.rooms = (0..members)
        .map(|n| tenant::room(&room_id(n), "客户服务群", RoomKind::Customer))
        .collect();

    let start = Instant::now();
    let directory = Directory::new(snapshot);
    println!("{name}: indexed in {:?}", start.elapsed());

    let mut messages: Vec<_> = (0..100_000_u32)
        .map(|n| {
            let n = n.wrapping_mul(2_654_435_761);
            let from = match n % 3 {
                0 => format!("Employee{}", n % members),
                1 => format!("employee{}", n % members),
                _ => customer_id(n % customers),
            };
            tenant::message(&from, &room_id(n % members))
        })
        .collect();
    let mut best = Duration::MAX;
    let mut unresolved = 0;
    for _ in 0..10 {
        let start = Instant::now();
        let batch = directory.join(&mut messages);
        best = best.min(start.elapsed() / messages.len() as u32);
        unresolved = batch.parties + batch.rooms;
    }
    println!(
        "{name}: joined in {best:?} each, {:.0} messages/s, {unresolved} unresolved",
        1.0 / best.as_secs_f64()
    );
}
