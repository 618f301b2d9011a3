//! Many clients at once, measured: one test at a time.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod crowd;
mod soak;
