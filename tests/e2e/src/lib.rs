//! Runs chatledger as its users do (the built programs, the real Kafka, the real ClickHouse engine,
//! a simulated tenant) and compares what it stored with the truth.
//!
//! It does not know how chatledger works inside: of its crates it links none, it sees commands,
//! files, tables and topics.
//!
//! A test takes a [`Tenant`], runs `chatledger` over it and asks [`stored`] whether tables and files
//! hold the truth. One engine and one broker serve all tests of a test binary ([`services`]); each
//! tenant has a database and a topic prefix of its own. Whatever a test binary starts ends with it,
//! however it ends ([`janitor`]).

pub mod clickhouse;
pub mod difference;
pub mod directory;
pub mod expected;
pub mod grafana;
pub mod groups;
pub mod http;
pub mod janitor;
pub mod kills;
pub mod metrics;
pub mod place;
pub mod process;
pub mod proxy;
pub mod seal;
pub mod services;
pub mod stored;
pub mod tenant;
pub mod tidy;
pub mod tls;
pub mod waiting;

pub use clickhouse::ClickHouse;
pub use expected::Expected;
pub use process::Process;
pub use tenant::{Driver, Plan, Summary, Tenant};
