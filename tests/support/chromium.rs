//! A headless Chromium driven over its DevTools protocol: commands go out and answers and events come back as JSON in
//! the messages of one WebSocket, read by the test's own thread.

use super::programs::target_tmp;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// The time that the browser has for its start or for one command. A loaded machine with two cores has needed 4 s for a
/// start.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(50);

const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
];

/// One browser with one page or more. Dropping it ends the browser and removes its profile.
pub struct Chromium {
    // The order is the order in which they are dropped: the connection, the processes, then the files that these had
    // open.
    socket: WebSocket<TcpStream>,
    _process: Process,
    /// The sessions of the pages, and the session of the page in front. Both are empty as long as there is no page.
    tabs: Vec<String>,
    session: String,
    last_id: u64,
    events: Vec<Value>,
}

impl Chromium {
    /// Starts the browser. Returns `None`, and prints why, if this machine has no browser.
    ///
    /// `CHROMIUM` names another executable than `chromium`. With `THREADWS_REQUIRE_ALL=1` a missing browser is a
    /// failure.
    pub fn start() -> Option<Chromium> {
        let program = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let (process, url) = match Process::start(&program) {
            Ok(started) => started,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let required = std::env::var("THREADWS_REQUIRE_ALL").is_ok_and(|value| value == "1");
                assert!(!required, "THREADWS_REQUIRE_ALL=1, but {program} cannot be started: {error}");
                eprintln!(
                    "skipped: {program} cannot be started ({error}); Debian has it in the package chromium"
                );
                return None;
            }
            Err(error) => panic!("{program} cannot be started: {error}"),
        };

        let address = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("a ws:// URL");
        let stream = TcpStream::connect(address).expect("connect to DevTools");
        stream.set_read_timeout(Some(PATIENCE)).expect("set the timeout of the handshake");
        let (socket, _) = tungstenite::client(url.as_str(), stream).expect("handshake with DevTools");
        // From here on a read that times out only means that no message has come yet.
        socket.get_ref().set_read_timeout(Some(POLL)).expect("set the timeout of a poll");

        let mut browser = Chromium {
            socket,
            _process: process,
            tabs: Vec::new(),
            session: String::new(),
            last_id: 0,
            events: Vec::new(),
        };
        browser.new_tab();
        Some(browser)
    }

    /// Opens another page, puts it in front, and returns its number. The number of the first page is 0.
    pub fn new_tab(&mut self) -> usize {
        self.session.clear(); // the command goes to the browser itself
        let target = self.command("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.command("Target.attachToTarget", &attach);
        self.session = session["sessionId"].as_str().expect("a session").to_owned();
        self.tabs.push(self.session.clone());
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"] {
            self.command(&format!("{domain}.enable"), &json!({}));
        }
        self.tabs.len() - 1
    }

    /// Puts a page in front. All later calls act on it.
    pub fn turn_to(&mut self, tab: usize) {
        self.session.clone_from(&self.tabs[tab]);
        self.command("Page.bringToFront", &json!({}));
    }

    /// Goes to an address and returns when the page has loaded.
    pub fn open(&mut self, url: &str) {
        let answer = self.command("Page.navigate", &json!({ "url": url }));
        assert!(answer.get("errorText").is_none(), "{url} cannot be opened: {answer}");
        self.wait_until("the page has loaded", "document.readyState === 'complete'");
    }

    /// Returns the value of a JavaScript expression in the page. For a promise, returns the value that it resolves to.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.command("Runtime.evaluate", &params);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}\nthrew {}",
            answer["exceptionDetails"]
        );
        answer["result"]["value"].take()
    }

    /// Returns the string that an expression evaluates to.
    pub fn text(&mut self, expression: &str) -> String {
        let value = self.evaluate(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is not a string but {value}")).to_owned()
    }

    /// Waits until an expression is `true`. Fails with the contents of the page after 30 s.
    pub fn wait_until(&mut self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(expression) != Value::Bool(true) {
            if Instant::now() > deadline {
                let shown = self.evaluate("document.title + '\\n' + document.body.innerText");
                let complaints = self.complaints();
                panic!(
                    "not after {PATIENCE:?}: {what}\n{expression}\nThe page shows:\n{}\nThe console: {complaints:#?}",
                    shown.as_str().unwrap_or_default()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Presses and releases a key by its DOM name, as `Tab`, `Enter` or `Shift+Enter`.
    pub fn press(&mut self, key: &str) {
        let (modifiers, key) = key.strip_prefix("Shift+").map_or((0, key), |key| (8, key));
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            "ArrowUp" => (38, ""),
            "ArrowDown" => (40, ""),
            _ => panic!("no key code known for {key}"),
        };
        let mut down =
            json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers });
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.command("Input.dispatchKeyEvent", &down);
        let up = json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code });
        self.command("Input.dispatchKeyEvent", &up);
    }

    /// Types text where the focus is.
    pub fn type_text(&mut self, text: &str) {
        self.command("Input.insertText", &json!({ "text": text }));
    }

    /// Sets the size of the page in CSS pixels, drawn with 2 device pixels each, and `light` or `dark`.
    pub fn show(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500 });
        self.command("Emulation.setDeviceMetricsOverride", &size);
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.command("Emulation.setEmulatedMedia", &media);
        // Styles and layout are up to date two frames later.
        self.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))",
        );
    }

    /// Returns a picture of the window as a PNG in base64.
    pub fn screenshot(&mut self) -> String {
        let answer = self.command("Page.captureScreenshot", &json!({ "format": "png" }));
        answer["data"].as_str().expect("a picture").to_owned()
    }

    /// Writes a picture of the window to a PNG file.
    pub fn keep_screenshot(&mut self, path: &Path) {
        let picture = decode_base64(&self.screenshot());
        std::fs::write(path, picture)
            .unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
        println!("screenshot: {}", path.display());
    }

    /// Returns the complaints of the browser so far: exceptions, console errors and warnings, and violations of the
    /// page's Content-Security-Policy.
    pub fn complaints(&mut self) -> Vec<String> {
        self.evaluate("0"); // events come in order, so all events before this answer have been read
        let complains = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Audits.issueAdded") => true,
            Some("Runtime.consoleAPICalled") => {
                matches!(event["params"]["type"].as_str(), Some("error" | "warning" | "assert"))
            }
            Some("Log.entryAdded") => {
                matches!(event["params"]["entry"]["level"].as_str(), Some("error" | "warning"))
            }
            _ => false,
        };
        self.events.iter().filter(complains).map(|event| event["params"].to_string()).collect()
    }

    /// Returns every address that the page requested so far, WebSockets included. `data:` is not a request.
    pub fn requests(&mut self) -> Vec<String> {
        self.evaluate("0");
        let address = |event: &Value| {
            let params = &event["params"];
            let url = match event["method"].as_str() {
                Some("Network.requestWillBeSent") => &params["request"]["url"],
                Some("Network.webSocketCreated") => &params["url"],
                _ => return None,
            };
            url.as_str().map(str::to_owned)
        };
        self.events.iter().filter_map(address).filter(|url| !url.starts_with("data:")).collect()
    }

    /// Sends a command and returns its result. Keeps the events that come before the result.
    fn command(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.socket
            .send(Message::text(request.to_string()))
            .unwrap_or_else(|error| panic!("{method}: {error}"));

        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let mut value: Value = serde_json::from_str(&text).expect("JSON from DevTools");
                    if value["id"] == id {
                        assert!(
                            value.get("error").is_none(),
                            "{method} {params}\nfailed: {}",
                            value["error"]
                        );
                        return value["result"].take();
                    }
                    self.events.push(value);
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => panic!("the browser went away during {method}: {error}"),
            }
            assert!(Instant::now() < deadline, "no answer to {method} within {PATIENCE:?}");
        }
    }
}

/// The hash of the public key of `tests/certificates/server.pem`, which the browser accepts.
const PINNED: &str = include_str!("../certificates/server.spki");

/// The browser's processes and their profile directory.
struct Process {
    child: Child,
    profile: PathBuf,
}

impl Process {
    /// Starts the browser and returns it with the address of its DevTools.
    fn start(program: &str) -> std::io::Result<(Process, String)> {
        static COUNT: AtomicU32 = AtomicU32::new(0); // Relaxed below: only the number has to be unique
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let profile = target_tmp().join(format!("chromium-{}-{number}", std::process::id()));
        let mut child = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("--ignore-certificate-errors-spki-list={}", PINNED.trim()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0) // a group of its own, so that `drop` can end the browser's helpers too
            .spawn()?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let process = Process { child, profile };

        // Reads to the end, so that the browser never waits for room in the pipe.
        let (lines, incoming) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.send(line).ok(); // the receiver is gone once the address was found
            }
        });
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix("DevTools listening on ") {
                    Some(url) => return Ok((process, url.trim().to_owned())),
                    None => said.push(line),
                },
                Err(error) => {
                    panic!("no DevTools address from {program} ({error}); it said:\n{}", said.join("\n"))
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The browser is killed because its profile is thrown away anyway. An error means that it has already ended.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
        // A helper process that is just ending may still create a file, so this is repeated until the folder is gone.
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir_all(&self.profile).is_err()
            && self.profile.exists()
            && Instant::now() < deadline
        {
            thread::sleep(POLL);
        }
    }
}

/// Standard base64 with padding, as DevTools sends it.
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in text.bytes().filter(|&symbol| symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("no base64: {symbol:#04x}"),
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.extend(u8::try_from((bits >> count) & 0xff));
        }
    }
    bytes
}
