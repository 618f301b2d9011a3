//! Quotas and the largest number of clients.

mod full_server;
mod quotas;
