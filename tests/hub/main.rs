//! Messages to many clients: broadcast, topics, slow peers.

mod churn;
mod joining;
mod order;
mod publish;
mod slow_peers;
