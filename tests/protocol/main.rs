//! Frames and messages: what is received, and what breaks the protocol.

#[path = "../support/mod.rs"]
mod support;

mod both_roles;
mod full_flow;
mod receiving;
mod violations;
