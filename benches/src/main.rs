//! Compares threadws with other WebSocket servers, called peers. Runs every load on every peer in turn, the server on one
//! core and the load generator on another. Writes the medians of several rounds as a table and as plots.
//!
//! `cargo run --release --manifest-path benches/Cargo.toml -- --help`

mod event_floor;
mod floor;
mod load;
mod peers;
mod report;
mod stream;
mod tokio_servers;

use load::{Length, Load, Outcome};
use peers::Peer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HELP: &str = "\
Usage: matrix [OPTIONS]

  --tls           compare servers with TLS, and threadws without
  --events        compare event loops, and both ways of threadws
  --deflate       compare servers that compress 1 KiB of JSON, and threadws without
  --quick         one short round in less than 2 minutes, to try it out
  --rounds N      how often each load is run on each peer [default: 5]
  --only WORDS    only loads whose name contains this, such as '64 in flight'
  --peers NAMES   only these peers: threadws,threadws-recv,floor,tungstenite,
                  tokio-tungstenite,node-ws, with --events threadws-events,
                  threadws,event-floor,tokio-websockets,tokio-tungstenite,node-ws,
                  with --tls threadws,threadws-tls,tokio-tungstenite-tls,
                  node-ws-tls,python-websockets-tls, and with --deflate threadws,
                  threadws-deflate,threadws-takeover,threadws-events,
                  threadws-events-deflate,yawc-deflate,node-ws-deflate,
                  python-websockets-deflate
                  [default: all that are installed]
  --out DIR       folder for the table and the plots
                  [default: benches/target/matrix]

Node's `ws` is measured if `node` finds it: set NODE_PATH. Python's `websockets`
is measured if `python3` finds it: set PYTHONPATH. Only the loopback interface
is used. No run starts after 18 minutes. On a shared machine, `chrt -f 10`
before the command keeps other processes away, but it starves Node.
";

/// No run starts later than this, so that all runs together take at most twenty minutes, or two with `--quick`.
const LIMIT: Duration = Duration::from_secs(18 * 60);
const QUICK_LIMIT: Duration = Duration::from_secs(100);

/// Without TLS, relative to [`Peer::Floor`].
const PLAIN: Matrix = Matrix {
    peers: &[Peer::Threadws, Peer::ThreadwsOwned, Peer::Floor, Peer::Naive, Peer::Tokio, Peer::Node],
    loads: &[
        echo(50, 32, 1),
        echo(50, 32, 64),
        echo(50, 1024, 64),
        echo(50, 64 << 10, 1),
        echo(2, 16 << 20, 1),
        echo(500, 32, 1),
        echo(2000, 32, 1),
        Load::Broadcast { clients: 1000, size: 64, in_flight: 1 },
        Load::Broadcast { clients: 1000, size: 64, in_flight: 16 },
        Load::Handshakes { parallel: 32 },
        Load::Idle { clients: 1000, json: false },
    ],
    reference: Peer::Floor,
};

/// Servers with TLS, relative to threadws without it.
const TLS: Matrix = Matrix {
    peers: &[Peer::Threadws, Peer::ThreadwsTls, Peer::TokioTls, Peer::NodeTls, Peer::PythonTls],
    loads: &[
        echo(50, 32, 1),
        echo(50, 32, 64),
        Load::Echo { clients: 50, size: 32, in_flight: 64, record_each: true },
        echo(50, 1024, 1),
        echo(50, 64 << 10, 1),
        Load::Broadcast { clients: 1000, size: 32, in_flight: 1 },
        Load::Broadcast { clients: 1000, size: 32, in_flight: 16 },
        Load::Handshakes { parallel: 32 },
        Load::Idle { clients: 1000, json: false },
        Load::Idle { clients: 5000, json: false },
    ],
    reference: Peer::Threadws,
};

/// Servers that compress, each message by itself except for one, relative to threadws without compression. The generator sends
/// a message that was compressed before.
const DEFLATE: Matrix = Matrix {
    peers: &[
        Peer::Threadws,
        Peer::ThreadwsDeflate,
        Peer::ThreadwsTakeover,
        Peer::ThreadwsEvents,
        Peer::ThreadwsEventsDeflate,
        Peer::YawcDeflate,
        Peer::NodeDeflate,
        Peer::PythonDeflate,
    ],
    loads: &[
        echo(50, 1024, 1),
        echo(50, 1024, 64),
        Load::Broadcast { clients: 1000, size: 1024, in_flight: 1 },
        Load::Broadcast { clients: 1000, size: 1024, in_flight: 16 },
        Load::Idle { clients: 1000, json: true },
    ],
    reference: Peer::Threadws,
};

/// Event loops, relative to [`Peer::EventFloor`].
const EVENTS: Matrix = Matrix {
    peers: &[
        Peer::ThreadwsEvents,
        Peer::Threadws,
        Peer::EventFloor,
        Peer::TokioWebsockets,
        Peer::Tokio,
        Peer::Node,
    ],
    loads: &[
        echo(50, 32, 1),
        echo(50, 32, 64),
        echo(500, 32, 1),
        echo(2000, 32, 1),
        Load::Broadcast { clients: 1000, size: 64, in_flight: 1 },
        Load::Broadcast { clients: 1000, size: 64, in_flight: 16 },
        Load::Handshakes { parallel: 32 },
        Load::Idle { clients: 1000, json: false },
        Load::Idle { clients: 9000, json: false },
    ],
    reference: Peer::EventFloor,
};

/// A comparison of peers.
struct Matrix {
    peers: &'static [Peer],
    loads: &'static [Load],
    /// The figures of the other peers are relative to this one's.
    reference: Peer,
}

const fn echo(clients: usize, size: usize, in_flight: usize) -> Load {
    Load::Echo { clients, size, in_flight, record_each: false }
}

/// The command line.
struct Options {
    matrix: &'static Matrix,
    quick: bool,
    rounds: usize,
    only: String,
    peers: Vec<Peer>,
    out: PathBuf,
}

/// One load, and the runs of each peer.
pub struct Row {
    pub load: Load,
    pub runs: Vec<(Peer, Vec<Outcome>)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, name, mode, ..] = args.as_slice() {
        if word == "peer" {
            let peer = Peer::ALL.into_iter().find(|peer| peer.name() == name).ok_or("no such peer")?;
            raise_limits();
            return peer.serve(mode == "broadcast");
        }
    }
    let Some(options) = options(&args)? else {
        print!("{HELP}");
        return Ok(());
    };
    raise_limits();
    let began = Instant::now();
    let cores = Cores::find()?;
    let rows = run(&options, &cores, began)?;
    std::fs::create_dir_all(&options.out)?;
    report::write(
        &options.out,
        &rows,
        options.matrix.reference,
        &cores.describe(),
        &command(&args),
        began.elapsed(),
    )?;
    println!("written to {}", options.out.display());
    Ok(())
}

fn options(args: &[String]) -> Result<Option<Options>, Box<dyn Error>> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let is_given = |option| args.iter().any(|arg| arg == option);
    let matrix = match (is_given("--tls"), is_given("--events"), is_given("--deflate")) {
        (false, false, false) => &PLAIN,
        (true, false, false) => &TLS,
        (false, true, false) => &EVENTS,
        (false, false, true) => &DEFLATE,
        _ => return Err("--tls, --events and --deflate cannot be combined".into()),
    };
    let mut options = Options {
        matrix,
        quick: false,
        rounds: 5,
        only: String::new(),
        peers: matrix.peers.to_vec(),
        out: here.join("target/matrix"),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--tls" | "--events" | "--deflate" => {}
            "--quick" => (options.quick, options.rounds) = (true, 1),
            "--rounds" => options.rounds = value()?.parse()?,
            "--only" => options.only = value()?.clone(),
            "--peers" => {
                let names = value()?;
                options.peers = matrix.peers.to_vec();
                options.peers.retain(|peer| names.split(',').any(|name| name == peer.name()));
            }
            "--out" => options.out = value()?.into(),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown option {other}: see --help").into()),
        }
    }
    options.peers.retain(|peer| {
        let is_installed = peer.is_installed();
        if !is_installed {
            println!("{} is not installed, so it is left out", peer.name());
        }
        is_installed
    });
    Ok(Some(options))
}

fn command(args: &[String]) -> String {
    let mut command = "cargo run --release --manifest-path benches/Cargo.toml --".to_owned();
    for (at, arg) in args.iter().enumerate() {
        // The output folder is left out, because it does not change the result.
        if arg == "--out" || at > 0 && args[at - 1] == "--out" {
            continue;
        }
        command += if arg.contains(' ') { " '" } else { " " };
        command += arg;
        command += if arg.contains(' ') { "'" } else { "" };
    }
    command
}

fn run(options: &Options, cores: &Cores, began: Instant) -> Result<Vec<Row>, Box<dyn Error>> {
    let length = if options.quick {
        Length { warm_up: Duration::from_millis(200), measured: Duration::from_millis(600) }
    } else {
        Length { warm_up: Duration::from_millis(400), measured: Duration::from_millis(1500) }
    };
    let mut rows: Vec<Row> = Vec::new();
    let is_fast = |load: &Load| !options.quick || !matches!(load, Load::Echo { clients: 2000.., .. });
    let loads = options.matrix.loads.iter().copied();
    for load in loads.filter(is_fast).filter(|load| load.name().contains(&options.only)) {
        let peers = options.peers.iter().filter(|peer| peer.has(load.is_broadcast()));
        rows.push(Row { load, runs: peers.map(|peer| (*peer, Vec::new())).collect() });
    }
    let limit = if options.quick { QUICK_LIMIT } else { LIMIT };
    let total = options.rounds * rows.iter().map(|row| row.runs.len()).sum::<usize>();
    println!("{total} runs");
    let mut done = 0;
    for round in 0..options.rounds {
        for row in &mut rows {
            if began.elapsed() > limit {
                println!("{} s have passed: no more runs", limit.as_secs());
                return Ok(rows);
            }
            // A load runs on all peers one after the other, so that the state of the machine is similar for all of them.
            // Each round begins with another peer.
            let peers = row.runs.len();
            for at in 0..peers {
                let (peer, outcomes) = &mut row.runs[(at + round) % peers];
                let outcome = one(*peer, row.load, cores, length);
                done += 1;
                let left = began.elapsed() / done as u32 * (total - done) as u32;
                let what = match &outcome {
                    Ok(outcome) => report::outcome(row.load, outcome),
                    Err(error) => format!("FAILED: {error}"),
                };
                println!(
                    "{done:4} of {total}, {:2}:{:02} to go | {:40} {:18} {what}",
                    left.as_secs() / 60,
                    left.as_secs() % 60,
                    row.load.name(),
                    peer.name(),
                );
                outcomes.extend(outcome);
            }
        }
    }
    Ok(rows)
}

/// Runs a load on a new process of the peer.
fn one(peer: Peer, load: Load, cores: &Cores, length: Length) -> Result<Outcome, Box<dyn Error>> {
    cores.move_to(cores.server)?;
    let server = peer.start(load.is_broadcast());
    cores.move_to(cores.generator)?;
    load.run(&server?, length)
}

/// The cores of the server and of the load generator.
struct Cores {
    server: usize,
    generator: usize,
}

impl Cores {
    fn find() -> Result<Self, Box<dyn Error>> {
        let ours = sched_getaffinity(None)?;
        let mut ours = (0..CpuSet::MAX_CPU).filter(|core| ours.is_set(*core));
        let server = ours.next().ok_or("no core")?;
        // If there is only one core, both use it.
        let generator = ours.next().unwrap_or(server);
        Ok(Self { server, generator })
    }

    /// Moves this thread to a core. Processes and threads that it starts later run there, too.
    fn move_to(&self, core: usize) -> Result<(), Box<dyn Error>> {
        let mut cores = CpuSet::new();
        cores.set(core);
        Ok(sched_setaffinity(None, &cores)?)
    }

    fn describe(&self) -> String {
        if self.server == self.generator {
            "server and generator share one core".to_owned()
        } else {
            format!("server on core {}, generator on core {}", self.server, self.generator)
        }
    }
}

/// Raises the limit of open files to the hard limit. If that is too low, a load fails with an error.
fn raise_limits() {
    let limit = getrlimit(Resource::Nofile);
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
