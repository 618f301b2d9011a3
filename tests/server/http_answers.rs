//! Plain HTTP answers have the time that their size needs.

use crate::support::{TestServer, echo, ms, watchdog};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use threadws::{Config, handshake::Response};

#[test]
fn a_large_answer_may_take_longer_than_the_handshake_timeout() {
    const SIZE: usize = 16 << 20; // more than the buffers of any socket take
    let _dog = watchdog(30);
    let server = TestServer::with(
        |server| {
            let server = server.config(Config::new().with_handshake_timeout(ms(200)));
            server.serve_http(|_| Response::new(vec![b'x'; SIZE]))
        },
        echo,
    );
    let mut peer = TcpStream::connect(server.addr()).expect("it listens");
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a new socket takes it");
    // Reads nothing for a while, as over a slow network.
    std::thread::sleep(ms(1500));
    let mut answer = Vec::new();
    let end = peer.read_to_end(&mut answer);
    assert!(answer.len() > SIZE, "only {} bytes came: {end:?}", answer.len());
}
