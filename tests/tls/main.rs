//! `wss://` and `https://`: certificates, the handshake of both roles, and what happens when it fails.
#![cfg(feature = "tls")]

#[path = "../support/mod.rs"]
mod support;

mod connecting;
mod openssl;
mod records;
mod sending;
mod serving;
