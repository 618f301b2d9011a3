//! Long documents: how it is built, every limit, whom it holds off, how to run it for others, how fast it is, and what
//! `ws` calls it. Their code runs as tests.

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("defaults.md")]
pub mod defaults {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("deploying.md")]
pub mod deploying {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("coming_from_ws.md")]
pub mod coming_from_ws {}
