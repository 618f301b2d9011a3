//! Guides: how the crate is built, its two ways to serve, its limits, its security, how to deploy it, how fast it is, its command, and how it
//! compares with npm's `ws`.
//!
//! Their examples are compiled and run as tests.

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("defaults.md")]
pub mod defaults {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("deploying.md")]
pub mod deploying {}

#[doc = include_str!("command_line.md")]
pub mod command_line {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("coming_from_ws.md")]
pub mod coming_from_ws {}
