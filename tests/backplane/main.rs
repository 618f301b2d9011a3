//! Several servers that pass messages on to each other, in one process.

mod faults;
mod faulty_engine;
mod rooms;
mod servers;
