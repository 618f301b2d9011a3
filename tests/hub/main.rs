//! Messages to many clients: broadcast, topics, slow peers.

#[path = "../support/mod.rs"]
mod support;

mod churn;
mod joining;
mod order;
mod publish;
mod slow_peers;
