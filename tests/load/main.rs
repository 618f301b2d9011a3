//! Many clients at once, measured: one test at a time.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod coming_and_going;
mod crowd;
mod soak;
mod starvation;
