//! A chat with names and rooms: topics, slow readers, subscriptions that end, and a page of its own.
//!
//! The path of a request names the room, such as `/room/tea`, which is a topic. The first message of a client is its name.
//! The server publishes each further message in the room. It sends JSON objects, one in a message:
//!
//! ```json
//! {"type": "join", "name": "Ann", "people": ["Ann", "Bo"]}
//! {"type": "text", "name": "Ann", "text": "hello"}
//! {"type": "leave", "name": "Ann", "people": ["Bo"]}
//! {"type": "refused", "why": "Ann is taken"}
//! ```
//!
//! A slow reader delays no other client: it is disconnected when 256 KiB are queued for it, and its page connects again.
//! `on_unsubscribe` is called when a client leaves: after a Close, a lost connection or a panic.
//!
//! Run it with `cargo run --example chat [ADDRESS]`, and open <http://127.0.0.1:8005/> in two windows.
//!
//! You see: a message that is written in one window appears in the other, if both are in the same room. Both windows show
//! who is in the room.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use threadws::http::{HeaderValue, StatusCode, header};
use threadws::{
    Config, Connection, Hub, Result, Server,
    handshake::{Reject, Request, Response},
    hub::SlowPeer,
};

/// The largest message, in bytes. The page sends at most 1000 UTF-16 units, which are at most 3000 bytes of UTF-8.
const MAX_MESSAGE: usize = 3000;
/// The longest name, in characters.
const MAX_NAME: usize = 24;
/// The longest name of a room, in bytes of the path, where percent-encoding takes up to nine bytes for a character.
const MAX_ROOM: usize = 200;

fn main() -> Result<()> {
    // Prints the failures of handlers, which the library logs.
    simplelog::SimpleLogger::init(simplelog::LevelFilter::Warn, simplelog::Config::default())
        .expect("the only logger");
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let rooms = Arc::new(Rooms::default());
    let rooms_to_leave = Arc::clone(&rooms);
    let server = Server::bind(address)?
        .config(Config::new().with_max_message_size(MAX_MESSAGE).with_max_backlog(256 * 1024))
        // Disconnected, because a page that connects again is better than one that misses a line.
        .slow_peer(SlowPeer::Close)
        .serve_http(page)
        .check_request(|request, _| match room_of(request.path()) {
            Some(_) => Ok(()),
            None => Err(Reject::new(404, "rooms are at /room/NAME")),
        })
        .on_unsubscribe(move |hub, client, room| rooms_to_leave.leave(hub, client.id(), room));
    println!("listening on http://{}/", server.local_addr()?);
    server.run(move |client| Ok(rooms.talk(client)?))
}

/// The people in each room.
#[derive(Default)]
struct Rooms(Mutex<BTreeMap<String, People>>);

/// The name of each connection, by its number.
type People = BTreeMap<u64, String>;

impl Rooms {
    /// Serves one client, in the client's own thread.
    fn talk(&self, client: &mut Connection) -> Result<()> {
        let Some(room) = room_of(client.request().path()).map(str::to_owned) else { return Ok(()) };
        let mut own_name = None;
        while let Some(message) = client.recv()? {
            let Some(text) = message.as_text().map(str::trim) else {
                client.send(refused("only text, please"))?;
                continue;
            };
            match &own_name {
                None => match self.join(client, &room, text)? {
                    Ok(()) => own_name = Some(text.to_owned()),
                    Err(why) => client.send(refused(why))?,
                },
                Some(_) if text.is_empty() => {}
                Some(name) => {
                    // The sender gets its own message, too, in the same order as all others.
                    let text = json!({ "type": "text", "name": name, "text": text });
                    client.hub()?.publish(&room, text.to_string());
                }
            }
        }
        Ok(())
    }

    /// Adds a client to a room. The inner error is the reason why it cannot have this name.
    fn join(&self, client: &Connection, room: &str, name: &str) -> Result<Result<(), String>> {
        if let Err(why) = check_name(name) {
            return Ok(Err(why));
        }
        let mut rooms = self.lock();
        let is_taken = |other: &String| other.to_lowercase() == name.to_lowercase();
        if rooms.get(room).is_some_and(|people| people.values().any(is_taken)) {
            return Ok(Err(format!("{name} is taken here")));
        }
        client.subscribe(room)?;
        let people = rooms.entry(room.to_owned()).or_default();
        people.insert(client.id(), name.to_owned());
        announce(client.hub()?, "join", room, name, people);
        Ok(Ok(()))
    }

    fn leave(&self, hub: &Hub, id: u64, room: &str) {
        let mut rooms = self.lock();
        let Some(people) = rooms.get_mut(room) else { return };
        if let Some(name) = people.remove(&id) {
            announce(hub, "leave", room, &name, people);
        }
        if people.is_empty() {
            rooms.remove(room);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, People>> {
        // Poisoning is ignored, because each change is a single call, which a panic cannot leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the names in a room to its people. Called while `Rooms` is locked, so that the last list that a client gets is
/// the current one. The lock is not held for long, because `publish` never waits.
fn announce(hub: &Hub, event: &str, room: &str, name: &str, people: &People) {
    let people: Vec<_> = people.values().collect();
    hub.publish(room, json!({ "type": event, "name": name, "people": people }).to_string());
}

fn refused(why: impl Into<Value>) -> String {
    json!({ "type": "refused", "why": why.into() }).to_string()
}

/// Allows a short name without invisible characters and without characters that change the reading direction, because the
/// name is shown beside others.
fn check_name(name: &str) -> Result<(), String> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    match name.chars().count() {
        0 => Err("a name, please".to_owned()),
        1..=MAX_NAME if name.contains(is_hidden) => Err("a name of visible characters, please".to_owned()),
        1..=MAX_NAME => Ok(()),
        _ => Err(format!("a name of at most {MAX_NAME} characters, please")),
    }
}

/// Returns the room that a path names, percent-encoded.
fn room_of(path: &str) -> Option<&str> {
    path.strip_prefix("/room/").filter(|room| (1..=MAX_ROOM).contains(&room.len()) && !room.contains('/'))
}

fn page(request: &Request) -> Response {
    if room_of(request.path()).is_some() {
        return html();
    }
    let (status, text) = match request.path() {
        "/" => (StatusCode::FOUND, "rooms are at /room/NAME\n"),
        _ => (StatusCode::NOT_FOUND, "not found\n"),
    };
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::FOUND {
        headers.insert(header::LOCATION, HeaderValue::from_static("./room/lobby"));
    }
    response
}

/// Returns the page. Its policy allows only the script and the style with the nonce of this answer, so that a message
/// cannot run a script.
fn html() -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let mut response = Response::new(include_str!("chat.html").replace("{{nonce}}", &nonce).into());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Never fails, because the policy is ASCII without control characters.
    headers.extend(HeaderValue::from_str(&policy).map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    response
}
