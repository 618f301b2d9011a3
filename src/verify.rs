//! Code that only checks the library: models of its threads, fuzz targets, the comparison of the decoder with
//! tungstenite's, and the hot paths whose instructions are counted. No release build contains it.
//!
//! Tests of one module are in that module, tests of the public API in `tests/`.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(bench_internals)]
pub mod internals;
#[cfg(test)]
pub(crate) mod mock_session;
#[cfg(all(test, model))]
pub(crate) mod models;
#[cfg(any(test, fuzzing))]
pub(crate) mod oracle;
