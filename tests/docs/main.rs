//! The documents and examples say what the code does.

#[path = "../support/mod.rs"]
mod support;

mod chat;
mod defaults;
mod deploying;
mod examples;
mod exports;
mod guide;
mod hot_path;
mod links;
mod options;
mod prose;
mod rooms;
mod test_map;
