//! Other implementations: clients, servers and proxies.

mod clients;
mod deflate;
mod haproxy;
mod servers;
mod tls_proxies;
mod trustme;
