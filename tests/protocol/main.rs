//! Frames and messages: what is received, and what breaks the protocol.

mod both_roles;
mod full_flow;
mod receiving;
mod violations;
