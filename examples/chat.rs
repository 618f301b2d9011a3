//! A chat with names and rooms: topics, what becomes of slow readers, who comes and who goes, and a page of its own.
//!
//! The path of a request names its room, `/room/tea`, which is a topic. The first message is a name; every further one is
//! said in the room. The server answers with one JSON object a message:
//!
//! ```json
//! {"type": "join", "name": "Ann", "people": ["Ann", "Bo"]}
//! {"type": "text", "name": "Ann", "text": "hello"}
//! {"type": "leave", "name": "Ann", "people": ["Bo"]}
//! {"type": "refused", "why": "Ann is taken"}
//! ```
//!
//! Nobody waits for a slow reader: who lets 256 KiB wait is closed, and comes back by itself, since the page connects
//! again. Leaving is noticed by `on_unsubscribe`, whether by a Close, a lost connection or a panic.
//!
//! Run it with `cargo run --example chat [ADDRESS]`, and open <http://127.0.0.1:8005/> in two windows.
//!
//! To see: what is said in one window appears in the other if both are in one room, and so does who comes and who goes.

use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use threadws::{BoxError, Config, Connection, Hub, Reject, Request, Response, Result, Server, SlowPeer};

/// In bytes: the page lets 1000 UTF-16 units through, which are at most 3000. More ends the connection with 1009.
const MAX_MESSAGE: usize = 3000;
/// In characters.
const MAX_NAME: usize = 24;
/// In bytes of the path, where a character may take nine.
const MAX_ROOM: usize = 200;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8005".into());
    let config = Config::new().with_max_message_size(MAX_MESSAGE).with_max_backlog(256 * 1024);
    // A line missing from a conversation is worse than a new connection.
    let server = Server::bind(address)?.config(config).slow_peer(SlowPeer::Close).serve_http(page);
    println!("listening on http://{}/", server.local_addr()?);

    let chat = Arc::new(Chat { hub: server.hub().clone(), rooms: Mutex::default() });
    let hall = Arc::clone(&chat);
    server
        .check_request(|request, _| match room(request.path()) {
            Some(_) => Ok(()),
            None => Err(Reject::new(404, "rooms are at /room/NAME")),
        })
        .on_unsubscribe(move |_, client, room| hall.leave(client.id(), room))
        .run(move |client| chat.talk(client))
}

/// Who is in which room.
struct Chat {
    hub: Hub,
    rooms: Mutex<Rooms>,
}

/// By room, people's names by the numbers of their connections.
type Rooms = BTreeMap<String, BTreeMap<u64, String>>;

impl Chat {
    /// The life of one client, in its own thread.
    fn talk(&self, client: &mut Connection) -> Result<(), BoxError> {
        let Some(room) = room(client.request().path()).map(str::to_owned) else { return Ok(()) };
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
                    // The sender is a member, too, and hears itself in its place among the others.
                    let said = json!({ "type": "text", "name": name, "text": text });
                    client.hub()?.publish(&room, said.to_string());
                }
            }
        }
        Ok(())
    }

    /// Lets a client into a room, or says why not.
    fn join(&self, client: &Connection, room: &str, name: &str) -> Result<Result<(), String>> {
        if let Err(why) = check_name(name) {
            return Ok(Err(why));
        }
        let mut rooms = self.rooms();
        let is_taken = |other: &String| other.to_lowercase() == name.to_lowercase();
        if rooms.get(room).is_some_and(|people| people.values().any(is_taken)) {
            return Ok(Err(format!("{name} is taken here")));
        }
        client.subscribe(room)?;
        let people = rooms.entry(room.to_owned()).or_default();
        people.insert(client.id(), name.to_owned());
        self.announce("join", room, name, people);
        Ok(Ok(()))
    }

    fn leave(&self, id: u64, room: &str) {
        let mut rooms = self.rooms();
        let Some(people) = rooms.get_mut(room) else { return };
        if let Some(name) = people.remove(&id) {
            self.announce("leave", room, &name, people);
        }
        if people.is_empty() {
            rooms.remove(room);
        }
    }

    /// Called under the lock, so that the last list that anybody gets is the right one. It may be: `publish` never waits.
    fn announce(&self, what: &str, room: &str, name: &str, people: &BTreeMap<u64, String>) {
        let people: Vec<_> = people.values().collect();
        self.hub.publish(room, json!({ "type": what, "name": name, "people": people }).to_string());
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        // Each change is one call: a panic between two of them has left nothing half done.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: impl Into<Value>) -> String {
    json!({ "type": "refused", "why": why.into() }).to_string()
}

/// A name is shown beside others, so it is short and has nothing that is invisible or turns the writing around.
fn check_name(name: &str) -> Result<(), String> {
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    match name.chars().count() {
        0 => Err("a name, please".to_owned()),
        1..=MAX_NAME if name.contains(is_odd) => Err("a name of visible characters, please".to_owned()),
        1..=MAX_NAME => Ok(()),
        _ => Err(format!("a name of at most {MAX_NAME} characters, please")),
    }
}

/// The room that a path names, as it stands there.
fn room(path: &str) -> Option<&str> {
    path.strip_prefix("/room/").filter(|room| (1..=MAX_ROOM).contains(&room.len()) && !room.contains('/'))
}

fn page(request: &Request) -> Response {
    if room(request.path()).is_some() {
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
        headers.insert(header::LOCATION, HeaderValue::from_static("/room/lobby"));
    }
    response
}

/// The page, whose script and style run only with this answer's own nonce: nothing that is said in a room can.
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
    // ASCII without controls.
    headers.extend(HeaderValue::from_str(&policy).map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    response
}
