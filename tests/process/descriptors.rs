//! A process of its own: counts the descriptors of its process.
//!
//! Values that outlive a connection hold no descriptor.

use std::sync::mpsc;
use support::{Frame, ProcessUsage, RawPeer, TestServer, eventually, in_own_process, ms, next, watchdog};
use threadws::connection::State;
use threadws::{Config, Connect, Sender};

/// Connections of each kind.
const EACH: usize = 8;

#[test]
fn senders_that_are_kept_hold_no_descriptors() {
    in_own_process(|| {
        let _dog = watchdog(60);
        let (tx, rx) = mpsc::channel();
        let config = Config::new().with_close_timeout(ms(200));
        let server = TestServer::with(
            |server| server.config(config),
            move |client| {
                let tick = client.every(ms(600_000), "never");
                tx.send((client.sender(), tick))?;
                match client.request().path() {
                    "/panic" => panic!("the handler's own fault"),
                    "/terminate" => client.sender().terminate(),
                    "/deaf" => while client.try_send(vec![7; 256 << 10]).is_ok() {},
                    _ => {}
                }
                Ok(client.ignore()?)
            },
        );
        let connect = || Connect::new(format!("ws://{}/", server.addr())).connect().expect("a connection");
        // The first connection creates what is shared by all clients of a server, or by the process.
        drop(connect());
        next(&rx, "its sender");
        eventually("it has left", || server.hub().count() == 0);
        let descriptors = || ProcessUsage::of(std::process::id()).descriptors;
        let before = descriptors();

        let mut kept: Vec<Sender> = Vec::new();
        let mut others = Vec::new();
        for _ in 0..EACH {
            RawPeer::open(server.addr()).close(1000);
            RawPeer::open(server.addr()).reset();
            drop(RawPeer::open(server.addr()));
            let mut panicked = RawPeer::open_at(server.addr(), "/panic", &[]);
            panicked.expect_close(1011);
            panicked.send(&Frame::close(1011, ""));
            panicked.expect_eof();
            RawPeer::open_at(server.addr(), "/terminate", &[]).expect_gone();
            // One is closed while it does not read, and one breaks the protocol and stays.
            let deaf = RawPeer::open_at(server.addr(), "/deaf", &[]);
            let mut wrong = RawPeer::open(server.addr());
            wrong.write(Frame::text("unmasked").unmasked().encode());
            wrong.expect_close(1002);
            others.extend([deaf, wrong]);
            let connection = connect();
            kept.push(connection.sender());
            drop(connection);
        }
        let mut ticks = Vec::new();
        for _ in 0..8 * EACH {
            let (sender, tick) = next(&rx, "a sender");
            kept.push(sender);
            ticks.push(tick);
        }
        let members = server.hub().clients();
        for sender in &kept {
            // Clients that do not read get a Close, do not answer, and are cut off.
            sender.close(1000, "").unwrap_or(());
        }
        eventually("all have left", || server.hub().count() == 0);
        drop(others);
        eventually("the descriptors are as many as before", || descriptors() <= before);
        assert_eq!(kept.len(), 9 * EACH);
        assert!(kept.iter().all(|sender| sender.state() == State::Closed));
        assert!(kept.iter().all(|sender| sender.clone().send("x").is_err()));
        drop((members, ticks));
    });
}
