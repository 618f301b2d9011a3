//! Serving with events: the callbacks of a client, the threads that call them, and clients without a thread.
//!
//! Everything that both ways of serving promise is tested in the other suites, with `THREADWS_TEST_EVENTS=1`.

mod blocking;
mod callbacks;
mod resting;
