//! Code that only checks the library: models, fuzz entry points, a second decoder to compare with, and the hot paths
//! whose instructions are counted. No release build contains it.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(bench_internals)]
pub mod internals;
#[cfg(all(test, model))]
pub(crate) mod models;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
