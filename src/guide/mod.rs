//! Long documents: how it is built, and every limit. Their code runs as tests.

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("defaults.md")]
pub mod defaults {}
