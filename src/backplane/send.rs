//! The sending thread of a backplane: it connects, subscribes, publishes and pings, and connects again.

use super::LinkState;
use super::bus::{Bus, LOG, MAX_PAUSE, Work};
use super::engine::LinkWriter;
use super::envelope::EnvelopeKind;
use super::queue::Envelope;
use crate::logging::log_line;
use crate::sync::{Arc, JoinHandle, now, spawn};
use std::io;
use std::time::Duration;

const STACK: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The pause after the engine refused this server.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

pub(super) fn start(bus: Arc<Bus>) -> io::Result<JoinHandle<()>> {
    spawn("threadws-publish", STACK, move || {
        run(&bus);
        bus.lock().enter(LinkState::Stopped, None);
        bus.notify();
    })
}

fn run(bus: &Bus) {
    let name = format!("threadws:{:x}", bus.node);
    let mut failures = 0;
    while bus.begin_connect() {
        let connected = bus.engine.connect(&name, CONNECT_TIMEOUT);
        bus.lock().is_connecting = false;
        let error = match connected {
            Ok((mut writer, reader)) => {
                bus.lock().begin_link(reader, failures > 1);
                bus.notify();
                failures = 0;
                let sent = use_link(bus, &mut *writer);
                writer.end();
                end_link(bus).or(sent.err())
            }
            Err(error) => Some(error),
        };
        let Some(error) = error else { return };
        failures += 1;
        pause(bus, &error, failures);
    }
}

/// Sends until the link is broken, or the server has stopped.
fn use_link(bus: &Bus, writer: &mut dyn LinkWriter) -> io::Result<()> {
    while let Work::Send { changes, mut envelopes, ping, alive } = bus.next_work() {
        if ping {
            writer.ping()?;
        }
        for (names, is_new) in [(&changes.unsubscribe, false), (&changes.subscribe, true)] {
            let names: Vec<_> = names.iter().map(|name| &**name).collect();
            match (names.is_empty(), is_new) {
                (true, _) => {}
                (false, true) => writer.subscribe(&names)?,
                (false, false) => writer.unsubscribe(&names)?,
            }
        }
        envelopes.extend(alive.then(|| bus.about_myself(EnvelopeKind::Alive)));
        publish(writer, &envelopes)?;
    }
    let is_broken = bus.lock().link.error.is_some();
    if is_broken { Ok(()) } else { publish(writer, &[bus.about_myself(EnvelopeKind::Goodbye)]) }
}

fn publish(writer: &mut dyn LinkWriter, envelopes: &[Envelope]) -> io::Result<()> {
    for Envelope { channel, head, body, .. } in envelopes {
        writer.publish(channel, &head.encode(), body)?;
    }
    writer.flush()
}

/// Waits until the receiving thread has dropped its half. Returns the error that it found, if any.
fn end_link(bus: &Bus) -> Option<io::Error> {
    let mut state = bus.lock();
    state.link.reader = None;
    while state.link.is_read {
        state = bus.wait(state, None);
    }
    let error = state.link.error.take();
    state.end_link();
    error
}

/// Waits before the next attempt, and longer each time.
fn pause(bus: &Bus, error: &io::Error, failures: u32) {
    let is_refused = error.kind() == io::ErrorKind::PermissionDenied;
    let (state, verb) =
        if is_refused { (LinkState::Refused, "refuses us") } else { (LinkState::Away, "is away") };
    let time = if is_refused {
        REFUSED_PAUSE
    } else {
        let doubled = FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
        // Servers that lost the same engine do not come back at the same moment.
        doubled.min(MAX_PAUSE).mul_f64(rand::random_range(0.75..=1.0))
    };
    let mut guard = bus.lock();
    let is_new = guard.state != state;
    guard.enter(state, Some(error.to_string()));
    bus.notify();
    let deadline = now() + time;
    if is_new {
        drop(guard);
        let error = error.to_string();
        let error = error.escape_debug();
        log_line!(
            Warn,
            LOG,
            "{} {verb}: {error}; messages reach only the clients of this server",
            bus.engine
        );
        guard = bus.lock();
    }
    while guard.stop.is_none() && now() < deadline {
        guard = bus.wait(guard, Some(deadline));
    }
}
