//! The opening handshake, as a server sees it: what is accepted, what is refused, and behind proxies.

mod forwarded;
mod outcome;
mod proxy_protocol;
mod settings;
