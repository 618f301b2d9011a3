//! Many clients at once, with measurements. Only one test runs at a time, by `take_turn()`.

mod attacks;
mod coming_and_going;
mod compression;
mod crowd;
mod events;
mod growth;
mod shared_threads;
mod soak;
mod starvation;
mod tls;
