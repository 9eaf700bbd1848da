//! Placeholder.

pub mod grafana;
