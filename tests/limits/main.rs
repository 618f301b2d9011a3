//! Quotas and the largest number of clients.

#[path = "../support/mod.rs"]
mod support;

mod full_server;
mod quotas;
