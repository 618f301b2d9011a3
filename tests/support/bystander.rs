//! A well-behaved client that talks to the server during an attack and must not notice the attack. A plain echo without
//! a WebSocket runs all the time beside it, and measures the delays of the machine itself.

use super::raw_peer::RawPeer;
use super::time::{PATIENCE, ms, test_name};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// At most 100 messages a second.
const PACE: Duration = Duration::from_millis(10);
/// The pause between two plain echoes. It is short, so that a delay of the machine that an echo meets is met by one of them.
const PLAIN_PACE: Duration = Duration::from_millis(1);
/// It sends at least this number of messages, however short the attack is. With fewer, "99 % of the echoes" would be all
/// of them, and one delay by another process on the machine would fail the test.
const LEAST: usize = 100;
/// It opens a fresh connection after each of this number of messages.
const FRESH: usize = 50;

/// Talks to an echo server until [`expect_undisturbed`](Self::expect_undisturbed) is called.
#[derive(Debug)]
pub struct Bystander {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Delays>,
    plain: JoinHandle<Duration>,
}

#[derive(Debug, Default)]
struct Delays {
    echoes: Vec<Duration>,
    connects: Vec<Duration>,
}

impl Bystander {
    /// Starts to talk to an echo server that will be attacked.
    #[track_caller]
    pub fn beside(addr: SocketAddr) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (stop_plain, plain_stopped) = mpsc::channel::<()>();
        let mut peer = RawPeer::open(addr);
        let thread = std::thread::Builder::new().name(test_name());
        let body = move || {
            let _stop_plain = stop_plain;
            let mut delays = Delays::default();
            loop {
                let over = stopped.recv_timeout(PACE) != Err(RecvTimeoutError::Timeout);
                let number = delays.echoes.len();
                if over && number >= LEAST {
                    return delays;
                }
                delays.echoes.push(timed(|| echo(&mut peer, number)));
                if number % FRESH == 0 {
                    delays.connects.push(timed(|| echo(&mut RawPeer::open(addr), number)));
                }
            }
        };
        let plain = move || {
            let mut machine = plain_echo();
            let mut slowest = Duration::ZERO;
            while plain_stopped.recv_timeout(PLAIN_PACE) == Err(RecvTimeoutError::Timeout) {
                slowest = slowest.max(timed(|| {
                    machine.write_all(b"?").expect("the plain echo reads");
                    machine.read_exact(&mut [0]).expect("the plain echo writes");
                }));
            }
            slowest
        };
        Self {
            stop,
            plain: std::thread::spawn(plain),
            thread: thread.spawn(body).expect("a thread for the bystander"),
        }
    }

    /// Stops the client and checks its delays. 99 % of its echoes must have taken at most 100 ms, each echo at most 1 s,
    /// and each new connection at most 1 s. The longest delay of the plain echo is allowed in addition, but at most 300 ms,
    /// because the attack itself may have caused it.
    #[track_caller]
    pub fn expect_undisturbed(self) {
        let (delays, machine) = self.delays();
        let echo = quantile(&delays.echoes, 0.99);
        let connect = quantile(&delays.connects, 1.0);
        assert!(
            echo <= ms(100) + machine,
            "99 % of the echoes took up to {echo:?}, which the machine excuses with {machine:?}"
        );
        delays.expect_served(machine);
        assert!(
            connect <= ms(1000) + machine,
            "a new client took {connect:?}, which the machine excuses with {machine:?}"
        );
    }

    /// Stops the client and checks only that each echo took at most 1 s, with the same addition.
    #[track_caller]
    pub fn expect_served(self) {
        let (delays, machine) = self.delays();
        delays.expect_served(machine);
    }

    /// Stops the client. Returns its delays, and the delay that the machine excuses.
    #[track_caller]
    fn delays(self) -> (Delays, Duration) {
        drop(self.stop);
        let Ok(delays) = self.thread.join() else { panic!("the bystander died") };
        (delays, self.plain.join().expect("the plain echo lives").min(ms(300)))
    }
}

impl Delays {
    #[track_caller]
    fn expect_served(&self, machine: Duration) {
        let slowest = quantile(&self.echoes, 1.0);
        assert!(
            slowest <= ms(1000) + machine,
            "an echo took {slowest:?}, which the machine excuses with {machine:?}"
        );
    }
}

fn timed(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

#[track_caller]
fn echo(peer: &mut RawPeer, number: usize) {
    let text = format!("bystander {number}");
    peer.send_text(&text);
    assert_eq!(peer.message().as_text(), text);
}

/// Returns a connection to a thread that sends back each byte, without a WebSocket.
pub fn plain_echo() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let stream = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    let (mut other, _) = listener.accept().expect("the connection");
    std::thread::spawn(move || {
        let mut byte = [0];
        while other.read(&mut byte).is_ok_and(|bytes| bytes > 0) && other.write_all(&byte).is_ok() {}
    });
    stream
}

fn quantile(delays: &[Duration], quantile: f64) -> Duration {
    let mut delays = delays.to_vec();
    delays.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let at = ((delays.len() as f64 * quantile).ceil() as usize).clamp(1, delays.len());
    delays[at - 1]
}
