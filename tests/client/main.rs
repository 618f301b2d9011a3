//! Connections that `connect` opens.

mod connecting;
mod connection;
mod redirects;
