//! End-to-end tests: run the built programs with a real Kafka, a real ClickHouse engine and a
//! simulated tenant, and compare the stored data with the truth.
//!
//! It does not know the internals of chatledger: it links none of its crates and uses only commands,
//! files, tables and topics.
//!
//! A test starts a [`Tenant`], runs `chatledger` on it and compares tables and files with the truth
//! ([`stored`]). All tests of a test binary share one engine and one broker ([`services`]); each
//! tenant has its own database and topic prefix. Everything that a test binary starts is stopped when
//! the binary ends, even if it is killed ([`janitor`]).

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
pub mod paths;
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
pub use tenant::{DrainSummary, Driver, Tenant, TenantPlan};
