//! Tests that need a process of their own. [`support::in_own_process`] starts one for each.

mod descriptors;
mod display_panics;
mod leftovers;
mod log_records;
mod raised_panics;
mod vanished_clients;
