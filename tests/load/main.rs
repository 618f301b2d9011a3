//! Many clients at once, with measurements. Only one test runs at a time, by `take_turn()`.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod coming_and_going;
mod crowd;
mod growth;
mod soak;
mod starvation;
