//! Tests that need a process of their own: each is started in one by [`support::in_own_process`].

#[path = "../support/mod.rs"]
mod support;

mod descriptors;
mod display_panics;
mod leftovers;
mod log_records;
