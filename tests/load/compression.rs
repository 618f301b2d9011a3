//! The memory of clients that compress: of those that come and go, of those that are cut off, and of attackers.
#![cfg(all(feature = "cli", feature = "deflate"))]

use std::net::SocketAddr;
use support::frame::RSV1;
use support::{
    Bystander, Frame, Process, RawPeer, TestServer, can_open_sockets, eventually, ms, take_turn, watchdog,
};
use threadws::{Config, deflate::Deflate};

const OFFER: (&str, &str) = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");

/// The most that is kept after thousands of clients: a few compressors, and the windows of a few clients.
const KEPT: usize = 1 << 20;

/// With an arena of the C library for each thread, it varies by 1 MiB from run to run how much that keeps. Without a fixed
/// threshold, it keeps up to 2 MiB after a message of 1 MiB.
const MALLOC: [&str; 2] =
    ["env", "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=65536"];

fn echo_server(options: &[&str]) -> Process {
    Process::threadws_under(&MALLOC, &[&["--echo", "--every", "0", "--ping", "0"], options].concat())
}

fn wait_until_empty(server: &Process) {
    eventually("all clients have left", || server.metric("threadws_connections_open") == 0);
}

/// Returns a binary message as a server of ours compresses it.
fn compressed(plain: Vec<u8>) -> Frame {
    let config = Config::new().with_deflate(Deflate::new().threshold(0).window_bits(15).level(9));
    let server = TestServer::with(
        |server| server.config(config),
        move |client| {
            client.send(&plain[..])?;
            Ok(client.ignore()?)
        },
    );
    let mut peer = RawPeer::open_at(server.addr(), "/", &[OFFER]);
    let frame = peer.message();
    assert_eq!(frame.rsv, RSV1);
    peer.close(1000);
    Frame::new(frame.opcode, frame.payload).rsv(RSV1)
}

/// About 1 KiB of JSON.
fn json() -> Vec<u8> {
    let items = (0..24_u32)
        .map(|at| format!("{{\"id\":{},\"name\":\"user {at}\"}},", at.wrapping_mul(2_654_435_761)));
    items.collect::<String>().into_bytes()
}

/// Opens a connection on which one compressed message is echoed.
fn echoed(addr: SocketAddr, message: &Frame, plain: usize) -> RawPeer {
    let mut peer = RawPeer::open_at(addr, "/", &[OFFER]);
    peer.send(message);
    let echo = peer.message();
    assert!(echo.rsv == RSV1 && echo.payload.len() < plain, "{echo:?}");
    peer
}

#[test]
fn clients_that_compress_leave_nothing_behind() {
    const CLIENTS: usize = 1500;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let server = echo_server(&["--deflate", "--deflate-takeover", "--log", "warn"]);
    let (plain, message) = (json().len(), compressed(json()));
    let churn = || {
        for number in 0..CLIENTS / 2 {
            let peer = echoed(server.addr(), &message, plain);
            match number % 3 {
                0 => peer.reset(),
                1 => peer.close(1000),
                _ => drop(peer),
            }
        }
    };
    churn();
    wait_until_empty(&server);
    let before = server.usage();
    churn();
    wait_until_empty(&server);
    // The memory that the first half left is used again. A window is 4 KiB, a compressor 165 KB.
    let growth = server.usage().growth_since(&before);
    assert!(growth < KEPT, "{growth} bytes");
    server.stop();
}

/// npm's `ws` kept a compressor for each connection, and the memory fragmented.
#[test]
#[ignore = "takes 5000 threads twice, about 20 s"]
fn a_crowd_that_compresses_leaves_what_a_plain_one_leaves() {
    const CLIENTS: usize = 5000;
    let (_turn, _dog) = (take_turn(), watchdog(300));
    if !can_open_sockets(CLIENTS) {
        return;
    }
    let server = Process::threadws(&["--echo", "--every", "0", "--ping", "0", "--log", "warn", "--deflate"]);
    RawPeer::open(server.addr()).close(1000);
    let crowd = |offer: &[(&str, &str)], message: &Frame| {
        let open = |_| {
            let mut peer = RawPeer::open_at(server.addr(), "/", offer);
            peer.send(message);
            assert_eq!(peer.message().rsv, message.rsv);
            peer
        };
        let before = server.usage();
        let peers: Vec<_> = (0..CLIENTS).map(open).collect();
        peers.into_iter().for_each(RawPeer::reset);
        server.expect_settled(&before, ms(20_000), CLIENTS);
        server.usage()
    };
    // Of two servers, the C library keeps more or less by chance. In one, the second crowd uses what the first one left.
    let plain = crowd(&[], &Frame::binary(json()));
    let growth = crowd(&[OFFER], &compressed(json())).growth_since(&plain);
    println!("{growth} bytes more than {plain:?}");
    // The second crowd can also use an arena that the first did not. glibc has eight for each processor, and one keeps up to
    // 384 KiB. A window for each client would be 20 MiB.
    let arenas = 8 * std::thread::available_parallelism().map_or(1, usize::from);
    assert!(growth < KEPT + arenas * (384 << 10), "{growth} bytes");
    server.stop();
}

#[test]
fn connections_that_are_cut_inside_a_message_leave_nothing() {
    const CLIENTS: usize = 300;
    const ROUNDS: usize = 4;
    /// A decompressor has 56 KB. The C library keeps the memory of one round, and its pages are touched bit by bit.
    const EACH: usize = 60 << 10;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    if !can_open_sockets(CLIENTS) {
        return;
    }
    // Without a thread for each client, because the stacks of threads would add to it.
    let server = echo_server(&["--deflate", "--deflate-takeover", "--events", "--log", "warn"]);
    let (plain, message) = (json().len(), compressed(json()));
    let start = message.encode();
    let start = &start[..start.len() / 2];
    let before = server.usage();
    for _ in 0..ROUNDS {
        let mut peers: Vec<_> = (0..CLIENTS).map(|_| echoed(server.addr(), &message, plain)).collect();
        peers.iter_mut().for_each(|peer| peer.write(start));
        // The server has read it when it answers a client that came later.
        echoed(server.addr(), &message, plain).close(1000);
        peers.into_iter().for_each(RawPeer::reset);
        wait_until_empty(&server);
    }
    let growth = server.usage().growth_since(&before);
    println!("{growth} bytes after {ROUNDS} rounds");
    assert!(growth < CLIENTS * EACH + 4 * KEPT, "{growth} bytes");
    server.stop();
}

/// Undici, websockets, tornado and NATS had no limit behind the decompressor. `ws` sometimes answered 1007.
#[test]
fn a_thousand_compressed_bombs_take_no_memory() {
    const BOMBS: usize = 1000;
    const WARM_UP: usize = 20;
    let (_turn, _dog) = (take_turn(), watchdog(120));
    let server = echo_server(&["--deflate", "--log", "warn,threadws::connection=debug"]);
    let bomb = compressed(vec![0; (1 << 20) + 1]);
    assert!(bomb.payload.len() < 1100, "{}", bomb.payload.len());
    let attack = || {
        let mut peer = RawPeer::open_at(server.addr(), "/", &[OFFER]);
        peer.send(&bomb);
        peer.expect_close(1009);
        peer.expect_eof();
        server.usage()
    };
    // A message of the limit passes.
    echoed(server.addr(), &compressed(vec![0; 1 << 20]), 1 << 20).close(1000);
    for _ in 0..WARM_UP {
        attack();
    }
    wait_until_empty(&server);
    let before = server.usage();
    let bystander = Bystander::beside(server.addr());
    let peaks = (0..BOMBS).map(|_| attack().growth_since(&before));
    let peak = peaks.max().unwrap_or_default();
    bystander.expect_undisturbed();
    wait_until_empty(&server);
    let growth = server.usage().growth_since(&before);
    println!("{growth} bytes, {peak} at the peak");
    // At the peak, the threads of a few attackers still have a message of 1 MiB each.
    assert!(growth < 2 << 20 && peak < 8 << 20, "{growth} bytes, {peak} at the peak");
    server.expect_ends(WARM_UP + BOMBS, "sent 1009 ");
    server.stop();
}
