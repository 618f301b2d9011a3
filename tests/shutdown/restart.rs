//! The start and the end of the process: its message when it cannot listen, the closes when it is stopped, and the
//! immediate start of the next one.

#![cfg(feature = "cli")]

use rustix::process::Signal;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use support::lateness::Lateness;
use support::process::threadws_command;
use support::{Frame, Network, PATIENCE, Process, RawPeer, helper_process, ms, watchdog};
use threadws::{Config, Message, Server};

/// The close timeout of the server that is stopped.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The close timeout of the binary.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer a process may take to its end.
const GRACE: Duration = Duration::from_secs(1);

/// The delay that the machine excuses, up to a limit. Hundreds of threads have to wake up where one thread was late.
fn excuse(lateness: Lateness) -> Duration {
    (lateness.worst() * 10).min(GRACE)
}

#[test]
fn run_as_helper_process() {
    let Some(_part) = helper_process::role() else { return };
    let config = Config::new().with_close_timeout(TIMEOUT);
    helper_process::serve(Server::bind("127.0.0.1:0").expect("a port").config(config), TIMEOUT, |client| {
        while let Some(message) = client.recv()? {
            match message.as_text() {
                Some("sleep") => {
                    eprintln!("it sleeps");
                    std::thread::sleep(Duration::from_secs(60));
                }
                Some("flood") => {
                    let message = Message::from(vec![0; 64 << 10]);
                    // The socket and the backlog are full, without room for one more message.
                    while client.sender().try_send(&message).is_ok() {}
                    eprintln!("it is stuck");
                    client.send(message)?;
                }
                _ => client.send(message)?,
            }
        }
        Ok(())
    });
}

/// Clients in every state that a server may have when it is stopped.
struct House {
    open: Vec<RawPeer>,
    /// In the middle of a request's head, or before its first byte.
    shaking_hands: Vec<RawPeer>,
    /// Its handler waits in `send`.
    stuck: RawPeer,
}

impl House {
    fn of(server: &Process) -> Self {
        let addr = server.addr();
        let mut open: Vec<_> = (0..200).map(|_| RawPeer::open(addr)).collect();
        for peer in &mut open {
            peer.send_text("in");
            peer.expect_text("in");
        }
        let mut shaking_hands: Vec<_> = (0..50).map(|_| RawPeer::connect(addr)).collect();
        for (number, peer) in shaking_hands.iter_mut().enumerate() {
            if number % 5 > 0 {
                peer.write("GET / HTTP/1.1\r\n");
            }
        }
        // Clients are accepted in this order, so all were accepted when the last one is open.
        let mut stuck = RawPeer::open(addr);
        stuck.send_text("in");
        stuck.expect_text("in");
        Self { open, shaking_hands, stuck }
    }

    fn expect_goodbye(&mut self) {
        for peer in &mut self.open {
            peer.expect_close(1001);
            peer.send(&Frame::close(1001, ""));
            peer.expect_eof();
        }
        for peer in &mut self.shaking_hands {
            peer.expect_refusal(503);
        }
    }
}

/// Starts a server with clients in every state: one of them is stuck, and the handler of another sleeps.
fn full_house() -> (Process, House, RawPeer) {
    let server = helper_process::start(module_path!(), "sleepy", &[]);
    let mut house = House::of(&server);
    house.stuck.send_text("flood");
    let mut sleeper = RawPeer::open(server.addr());
    sleeper.send_text("sleep");
    server.wait_for_line(&["it is stuck"]);
    server.wait_for_line(&["it sleeps"]);
    (server, house, sleeper)
}

#[test]
fn sigterm_closes_all_clients_and_names_abandoned_ones() {
    let _dog = watchdog(60);
    let (mut server, mut house, mut sleeper) = full_house();
    let lateness = Lateness::from_now_on();
    let start = Instant::now();
    server.signal(Signal::TERM);
    house.expect_goodbye();
    house.stuck.expect_gone();
    sleeper.expect_gone();
    let status = server.wait(TIMEOUT + PATIENCE);
    let took = start.elapsed();
    let most = TIMEOUT + GRACE + excuse(lateness);
    println!("{took:?} of {most:?}");
    assert!(status.success() && took >= TIMEOUT && took <= most, "{status} after {took:?} of {most:?}");
    let report = server.wait_for_line(&["report: ", "closed"]);
    assert!(report.contains("251 connections closed, 1 abandoned: ["), "{report}");
    server.expect_no_panic();
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let _dog = watchdog(60);
    let (mut server, mut house, _sleeper) = full_house();
    let start = Instant::now();
    server.signal(Signal::TERM);
    house.open[0].expect_close(1001);
    server.signal(Signal::TERM);
    assert_eq!(server.wait(PATIENCE).code(), Some(130));
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
}

#[test]
fn sigterm_ends_at_the_close_timeout_with_stuck_clients() {
    let _dog = watchdog(60);
    let mut server = Process::threadws(&["--echo", "--every", "0"]);
    let mut house = House::of(&server);
    let message = Frame::binary(vec![0; 64 << 10]).encode();
    let stream = house.stuck.stream();
    stream.set_write_timeout(Some(ms(500))).expect("a timeout");
    // It only writes, until the server takes no more. Then its handler is stuck.
    while std::io::Write::write_all(&mut &stream, &message).is_ok() {}
    let lateness = Lateness::from_now_on();
    let start = Instant::now();
    server.signal(Signal::TERM);
    house.expect_goodbye();
    let status = server.wait(CLOSE_TIMEOUT + PATIENCE);
    let took = start.elapsed();
    let most = CLOSE_TIMEOUT + GRACE + excuse(lateness);
    println!("{took:?} of {most:?}");
    assert!(status.success() && took <= most, "{status} after {took:?} of {most:?}");
    server.wait_for_line(&["stopped: 251 connections closed"]);
    server.expect_no_panic();
}

/// Starts the binary, which must exit with 1, and print why and where it cannot listen.
#[track_caller]
fn cannot_listen(listen: &str, wrapper: &[&str], why: &str) {
    let mut process = Process::spawn(threadws_command(listen, wrapper, &[]));
    let status = process.wait(PATIENCE);
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{log:?}");
    assert!(process.stdout().is_empty(), "it printed that it listens");
    let last = log.last().expect("a line");
    assert!(last.contains(&format!("cannot listen on {listen}: ")) && last.contains(why), "{last}");
}

#[test]
fn an_unavailable_address_is_named_with_the_reason() {
    let _dog = watchdog(60);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    cannot_listen(&taken.local_addr().expect("it is bound").to_string(), &[], "in use");
    cannot_listen("192.0.2.1:8005", &[], "assign");
    cannot_listen("no-such-host.invalid:8005", &[], "");
    // The name has addresses of both families. Either will do.
    let server = Process::threadws_at("localhost:0", &[], &["--echo", "--every", "0"]);
    assert!(server.addr().ip().is_loopback());
    RawPeer::open(server.addr()).close(1000);
    server.stop();
}

#[test]
fn missing_ipv6_or_port_permission_is_reported() {
    let _dog = watchdog(60);
    let Some(network) = Network::new() else { return };
    let wrapper = network.wrapper_after("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; exec \"$@\"");
    cannot_listen("[::1]:0", &wrapper, "assign");
    let server = Process::threadws_at("localhost:0", &wrapper, &[]);
    assert!(server.addr().is_ipv4());
    server.stop();
    // A port below 1024 needs a capability, which root can give up.
    let [ip, netns, exec, name] = network.wrapper();
    let wrapper = [ip, netns, exec, name, "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-all"];
    cannot_listen("127.0.0.1:80", &wrapper, "denied");
}

/// Clients of the old process hold on to their connections.
#[test]
fn a_restarted_server_gets_its_port_at_once() {
    let _dog = watchdog(90);
    let options = ["--echo", "--every", "0", "--log", "warn"];
    let mut server = Process::threadws(&options);
    let addr = server.addr();
    for round in 0..4 {
        let mut peers: Vec<_> = (0..50).map(|_| RawPeer::open(addr)).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send_text("still here?");
            peer.expect_text("still here?");
            if number % 2 == 0 {
                peer.send(&Frame::close(1000, "")); // the server ends first, so TIME_WAIT is on its side
            }
        }
        if round % 2 == 0 {
            server.signal(Signal::KILL);
            server.ended(PATIENCE);
        } else {
            server.signal(Signal::TERM);
            for peer in &mut peers {
                peer.expect_close_at_last(&[1000, 1001]);
                drop(peer.try_write(&Frame::close(1001, "").encode()));
            }
            server.wait_for_success(ms(5000) + PATIENCE);
        }
        let next = Process::threadws_at(&addr.to_string(), &[], &options);
        // The clients that were cut off come back.
        for peer in &mut peers {
            peer.expect_gone();
            let mut again = RawPeer::open(addr);
            again.send_text("again");
            again.expect_text("again");
        }
        server = next;
    }
    server.stop();
}
