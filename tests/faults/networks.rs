//! Faults between the two ends: delays, cuts, half closes, resets, urgent bytes, a client that is killed. Each is
//! reported once, and no wrong data is delivered.

#![cfg(feature = "cli")]

use rustix::net::{SendFlags, send};
use rustix::process::Signal;
use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};
use support::frame::{BINARY, PING};
use support::{
    Fault, FaultyProxy, Frame, PATIENCE, Process, RawPeer, eventually, header, helper_process, ms,
    unsent_bytes_of, upgrade_request, watchdog,
};
use threadws::{CloseCode, Config, Server};

fn server() -> Process {
    Process::threadws(&["--echo", "--every", "0"])
}

/// Checks that each client has left, once.
#[track_caller]
fn each_left_once(server: &Process, clients: usize) -> Vec<String> {
    let lines = |what: &str| server.log().into_iter().filter(|line| line.contains(what)).collect::<Vec<_>>();
    eventually("each has left", || lines(" disconnected ").len() >= clients);
    let (came, left) = (lines(" connected from "), lines(" disconnected "));
    assert_eq!((came.len(), left.len()), (clients, clients), "{left:?}");
    left
}

#[test]
fn delays_change_nothing_except_the_time() {
    let _dog = watchdog(60);
    let server = server();
    let slow = [
        (Fault::Delay(ms(20)), Fault::Delay(ms(20))),
        (Fault::Trickle { after: 40, every: ms(1) }, Fault::Pass),
        (Fault::Pass, Fault::Trickle { after: 40, every: ms(1) }),
    ];
    for (there, back) in slow {
        let proxy = FaultyProxy::before(server.addr(), there, back);
        let mut peer = RawPeer::connect(proxy.addr());
        peer.write(upgrade_request(server.addr(), "/", &[]));
        peer.expect_101();
        for text in ["", "a", &"b".repeat(300)] {
            peer.send_text(text);
            peer.expect_text(text);
        }
        peer.close(1000);
    }
    let left = each_left_once(&server, slow.len());
    assert!(left.iter().all(|line| line.contains("1000")), "{left:?}");
    server.stop();
}

/// The proxy cuts it at the start, in the middle and at the end of a frame.
#[test]
fn a_cut_connection_ends_once_and_delivers_only_whole_messages() {
    let _dog = watchdog(90);
    let server = server();
    let addr = server.addr();
    let head = upgrade_request(addr, "/", &[]).len();
    let message = Frame::binary(vec![5; 500_000]).encode();
    let cuts = [head + 1, head + 9, head + 100_000, head + message.len() - 1];
    for after in cuts {
        for chaos in [Fault::Reset { after }, Fault::HalfClose { after }] {
            let proxy = FaultyProxy::before(addr, chaos, Fault::Pass);
            let mut peer = RawPeer::connect(proxy.addr());
            peer.write(upgrade_request(addr, "/", &[]));
            peer.expect_101();
            drop(peer.try_write(&message));
            // Neither the message nor a part of it may come.
            let until = Instant::now() + PATIENCE;
            assert!(!matches!(peer.frame_until(until), Ok(Some(frame)) if frame.opcode == BINARY));
        }
    }
    let left = each_left_once(&server, 2 * cuts.len());
    assert!(left.iter().all(|line| line.contains("no Close either way")), "{left:?}");
    assert!(!server.log().iter().any(|line| line.contains("sent binary")), "torn, and delivered");
    server.stop();
}

/// More than the kernel takes, so the rest of the frame waits for the peer.
const LARGE: usize = 6 << 20;

/// A server that sends a large message. Its pings, Close and timeouts come in the middle of that.
#[test]
fn run_as_helper_process() {
    if helper_process::role().is_none() {
        return;
    }
    let config = Config::new().with_write_timeout(Duration::from_secs(1)).with_ping_interval(ms(200));
    let server = Server::bind("127.0.0.1:0").expect("a port").config(config.with_close_timeout(ms(500)));
    helper_process::serve(server, Duration::from_millis(500), |client| {
        client.recv()?;
        let sender = client.sender();
        let large = std::thread::spawn(move || {
            eprintln!("sending");
            sender.send(vec![5; LARGE])
        });
        let received = client.recv();
        let close = received.is_ok_and(|message| message.is_some_and(|it| it.as_text() == Some("close")));
        if close {
            eprintln!("closing");
            client.close(CloseCode::NORMAL, "")?;
        }
        drop(large.join());
        Ok(())
    });
}

/// Reads slowly, so that the kernel has room at times and the frame is not complete before it is `over`. Then reads to
/// the end.
fn read_slowly(mut stream: TcpStream, over: impl Fn() -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut some = [0; 8 << 10];
    while let Ok(count @ 1..) = stream.read(&mut some) {
        bytes.extend_from_slice(&some[..count]);
        if !over() {
            std::thread::sleep(ms(20));
        }
    }
    bytes
}

#[test]
fn nothing_follows_an_answer_that_was_cut() {
    let _dog = watchdog(90);
    // Four ends in the middle of a frame: the write timeout, the client's FIN, the client's Close and the end of the
    // server.
    for cut in ["timeout", "FIN", "close", "shutdown"] {
        let mut server = helper_process::start(module_path!(), "server", &[]);
        let mut peer = RawPeer::open(server.addr());
        peer.send_text("go");
        server.wait_for_line(&["sending"]);
        eventually("the kernel is full", || {
            let unsent = unsent_bytes_of(server.addr());
            std::thread::sleep(ms(20));
            unsent > 0 && unsent == unsent_bytes_of(server.addr())
        });
        match cut {
            "FIN" => peer.fin(),
            "close" => peer.send_text("close"),
            "shutdown" => server.signal(Signal::TERM),
            _ => {}
        }
        let torn =
            read_slowly(peer.stream(), || server.log().iter().any(|line| line.contains(" closed after ")));
        server.expect_ends(1, "");
        assert!((11..LARGE).contains(&torn.len()), "{cut}: {} bytes", torn.len());
        // On a slow machine, a whole Ping goes before the message.
        let mut torn = &*torn;
        while torn.starts_with(&[0x80 | PING, 8]) {
            torn = &torn[10..];
        }
        let (head, payload) = torn.split_at(10);
        assert_eq!(head, header(0x80 | BINARY, None, LARGE as u64, 64), "{cut}");
        // A frame behind it would be taken for a part of it.
        let other = payload.iter().position(|byte| *byte != 5);
        assert_eq!(other, None, "{cut}: {:?}", &payload[other.unwrap_or(payload.len())..]);
        if cut == "shutdown" {
            server.wait_for_success(PATIENCE);
        } else {
            server.stop();
        }
    }
}

#[test]
fn an_answer_cut_on_its_way_ends_the_connection_once() {
    let _dog = watchdog(90);
    let server = server();
    let addr = server.addr();
    let message = Frame::binary(vec![5; 500_000]).encode();
    let chaos = [Fault::Reset { after: 100_000 }, Fault::HalfClose { after: 100_000 }];
    for chaos in chaos {
        let proxy = FaultyProxy::before(addr, Fault::Pass, chaos);
        let mut peer = RawPeer::connect(proxy.addr());
        peer.write(upgrade_request(addr, "/", &[]));
        peer.expect_101();
        peer.write(&message);
        peer.torn_frame();
    }
    each_left_once(&server, chaos.len());
    server.stop();
}

#[test]
fn a_killed_client_is_noticed_at_once() {
    let _dog = watchdog(60);
    let server = server();
    for _ in 0..5 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_threadws"));
        command.args(["connect", &server.url()]);
        let mut client = Process::with_pipe(command);
        client.write("here\n");
        client.wait_for_stdout("here");
        client.signal(Signal::KILL);
    }
    let left = each_left_once(&server, 5);
    assert!(left.iter().all(|line| line.contains("no Close either way")), "{left:?}");
    server.stop();
}

#[test]
fn urgent_bytes_disturb_nothing() {
    let _dog = watchdog(60);
    let server = server();
    let mut peer = RawPeer::connect(server.addr());
    let urgent = |peer: &RawPeer| send(peer.stream(), b"!", SendFlags::OOB).expect("an urgent byte");
    urgent(&peer);
    peer.ask("/", &[]);
    urgent(&peer);
    peer.expect_101();
    let start = server.usage();
    for round in 0..20 {
        urgent(&peer);
        let text = format!("round {round}");
        peer.send_text(&text);
        peer.expect_text(&text);
    }
    urgent(&peer);
    std::thread::sleep(ms(500));
    let load = server.usage().load_since(&start);
    assert!(load < 0.3, "it spins on what it does not read: {load:.2} of a processor");
    peer.close(1000);
    server.stop();
}

#[test]
fn a_closed_stderr_never_becomes_a_clients_socket() {
    let _dog = watchdog(60);
    // The next descriptors that are opened would be 0 and 2.
    let server = Process::threadws_under(
        &["sh", "-c", "exec \"$@\" <&- 2>&-", "sh"],
        &["--echo", "--every", "0", "--log", "trace"],
    );
    let mut peers: Vec<_> = (0..10).map(|_| RawPeer::open(server.addr())).collect();
    for peer in &mut peers {
        peer.send_text("log this");
        peer.expect_text("log this");
    }
    for mut peer in peers {
        peer.expect_silence(ms(20));
        peer.close(1000);
    }
    server.stop();
}

#[test]
fn bytes_after_a_refused_handshake_are_not_answered() {
    let _dog = watchdog(60);
    let server = server();
    let request = upgrade_request(server.addr(), "/", &[]);
    let bad = upgrade_request(server.addr(), "/", &[("Sec-WebSocket-Version", "8")]);
    let mut peer = RawPeer::connect(server.addr());
    peer.write([bad, request.clone(), request].concat());
    // One answer, and the end of the stream behind it.
    peer.expect_refusal(426);
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains(" connected from ")), "{log:?}");
    server.stop();
}
