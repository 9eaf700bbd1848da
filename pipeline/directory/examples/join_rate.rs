//! How long a large company takes to index, and how many messages a second one core joins:
//! `cargo run --release -p chatledger-directory --example join_rate`.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use chatledger_directory::Directory;
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{RoomKind, Snapshot};

#[path = "../tests/tenant/mod.rs"]
mod tenant;

const DEPARTMENTS: u32 = 2_000;
const MEMBERS: u32 = 100_000;
const CUSTOMERS: u32 = 500_000;

fn main() {
    let mut snapshot = Snapshot::empty(CorpId::from("wwcorp"));
    snapshot.departments = (1..=DEPARTMENTS)
        .map(|id| tenant::department(id, id / 5, "一个部门"))
        .collect();
    snapshot.members = (0..MEMBERS)
        .map(|n| tenant::member(&format!("Employee{n}"), "张三丰", &[n % DEPARTMENTS + 1]))
        .collect();
    snapshot.customers = (0..CUSTOMERS)
        .map(|n| tenant::customer(&format!("wmQ3zCDAAA{n:022}"), "王女士"))
        .collect();
    snapshot.rooms = (0..MEMBERS)
        .map(|n| {
            tenant::room(
                &format!("wrQ3zCDAAA{n:022}"),
                "客户服务群",
                RoomKind::Customer,
            )
        })
        .collect();

    let start = Instant::now();
    let directory = Directory::new(snapshot);
    println!("indexed in {:?}", start.elapsed());

    let mut messages: Vec<_> = (0..200_000_u32)
        .map(|n| {
            let n = n.wrapping_mul(2_654_435_761);
            let from = match n % 3 {
                0 => format!("Employee{}", n % MEMBERS),
                1 => format!("employee{}", n % MEMBERS),
                _ => format!("wmQ3zCDAAA{:022}", n % CUSTOMERS),
            };
            tenant::message(&from, &format!("wrQ3zCDAAA{:022}", n % MEMBERS))
        })
        .collect();
    for _ in 0..3 {
        let start = Instant::now();
        let unresolved = black_box(directory.join(&mut messages));
        let each = start.elapsed() / messages.len() as u32;
        println!(
            "joined in {each:?} each, {:.0} messages/s, {} unresolved",
            1.0 / each.as_secs_f64(),
            unresolved.parties + unresolved.rooms
        );
    }
}
