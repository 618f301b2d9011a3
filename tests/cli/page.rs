//! The page that `GET /` serves, in a real browser against the real binary.
//!
//! Screenshots remain in cargo's folder for test files (`target/tmp`) for a look by a person.
#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::chromium::Chromium;
use crate::support::nginx::below_app;
use crate::support::{Nginx, program};

#[test]
#[ignore = "starts a browser"]
fn the_page_shows_received_and_sent_messages() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = Server::start(0);
    browser.show(1000, 960, "light");
    browser.open(&server.url());
    // A timer of the test beside the page's timers measures how late the browser is with them.
    browser.evaluate(
        "(() => { window.late = 0; let last = performance.now();
           setInterval(() => { const now = performance.now();
             late = Math.max(late, now - last - 100); last = now }, 100); return 0 })()",
    );

    browser.wait_until("state OPEN", &state_is("OPEN"));
    browser.wait_until("the greeting is in the log", &entries_at_least("sent", 1));
    browser.wait_until("six messages came", &entries_at_least("received", 6));
    browser.wait_until("the switch sent two messages", &entries_at_least("sent", 3));
    server.wait_for_log("Hello from the browser!");
    assert_eq!(
        browser.text("document.getElementById('address').textContent"),
        server.url().replacen("http", "ws", 1)
    );

    // The interval of the browser's messages, by the times in the log. The limits are extended by the delay that a busy
    // machine caused.
    let late = browser.evaluate("late").as_f64().expect("a number").min(900.0);
    let gap = browser
        .evaluate(
            "(() => { const times = [...document.querySelectorAll('#entries .sent')].slice(1)
               .map((entry) => Date.parse(entry.querySelector('time').dateTime));
               return (times.at(-1) - times[0]) / (times.length - 1) })()",
        )
        .as_f64()
        .expect("a number");
    assert!(
        (2900.0 - late..3500.0 + late).contains(&gap),
        "the 3-second messages are {gap} ms apart, a timer was late by {late} ms"
    );

    browser.wait_until("the plot has marks in both rows", &marks_at_least(6, 3));
    browser.wait_until(
        "the summary counts both directions",
        r"/^Last minute: ([6-9]|\d\d) received.*; ([3-9]|\d\d) sent/.test(document.getElementById('summary').textContent)",
    );
    for scheme in ["light", "dark"] {
        browser.show(1000, 960, scheme);
        browser.keep_screenshot(&kept(scheme));
        let [received, sent] = ["received", "sent"].map(|row| coloured_pixels(&mut browser, row));
        assert!(
            received.0 > 100 && received.1 == 0,
            "{scheme}: pixels of received messages, above and below: {received:?}"
        );
        assert!(sent.1 > 100 && sent.0 == 0, "{scheme}: pixels of sent messages, above and below: {sent:?}");
    }
    browser.show(360, 780, "light");
    browser.wait_until(
        "a phone needs no sideways scrolling",
        "document.documentElement.scrollWidth <= innerWidth",
    );
    browser.keep_screenshot(&kept("phone"));

    assert_eq!(browser.complaints(), [""; 0]);
    let elsewhere = |url: &String| {
        url.split("://").nth(1).and_then(|rest| rest.split('/').next()) != Some(&server.host())
    };
    let requests = browser.requests();
    assert!(requests.len() >= 2, "the page and its WebSocket were asked for: {requests:?}");
    assert_eq!(requests.into_iter().filter(elsewhere).collect::<Vec<_>>(), [""; 0]);

    // The check above means something only if a violation would be reported.
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">'), 0");
    let complaints = browser.complaints();
    assert!(
        complaints.iter().any(|text| text.contains("style-src")),
        "a forbidden style went unseen: {complaints:?}"
    );
}

#[test]
#[cfg(feature = "tls")]
#[ignore = "starts a browser"]
fn the_page_over_https_uses_wss() {
    use crate::support::certificate;
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    let server = Server::start_with(0, &["--cert", &cert, "--key", &key]);
    browser.open(&format!("https://{}/", server.host()));
    browser.wait_until("state OPEN", &state_is("OPEN"));
    browser.wait_until("three messages came", &entries_at_least("received", 3));
    server.wait_for_log("Hello from the browser!");
    let address = browser.text("document.getElementById('address').textContent");
    assert_eq!(address, format!("wss://{}/", server.host()));
    assert_eq!(browser.complaints(), [""; 0]);
    browser.evaluate("document.getElementById('disconnect').click()");
    browser.wait_until("the close code is shown", &log_says("Closed with 1000 (normal closure)"));
}

/// The page tries again until the server was restarted.
#[test]
#[ignore = "starts a browser"]
fn the_page_shows_a_killed_server_and_reconnects_later() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let mut server = Server::start(0);
    let port = server.port;
    browser.show(1000, 960, "dark");
    browser.open(&server.url());
    browser.wait_until("state OPEN", &state_is("OPEN"));
    browser.wait_until("a message came", &entries_at_least("received", 1));

    server.kill();
    browser.wait_until("state CLOSED", "document.getElementById('state').textContent === 'CLOSED'");
    browser.wait_until("the close code is in the log", &log_says("Closed with 1006"));
    browser.wait_until(
        "the wait is shown in words",
        r"/Reconnecting in \d+ s/.test(document.getElementById('detail').textContent)",
    );

    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("the server is away");
    browser.press("Enter");
    browser.wait_until("sending while closed says so", &log_says("Not sent, the connection is C"));
    browser.wait_until("with the text", &log_says("the server is away"));
    assert_eq!(
        browser.text("document.getElementById('text').value"),
        "the server is away",
        "the text stays to be sent again"
    );
    browser.keep_screenshot(&kept("closed"));

    // It tries several times by itself, with longer pauses, before the server is back.
    browser.wait_until("a second failed attempt", "document.querySelectorAll('#entries .note').length >= 4");
    let server = Server::start(port);
    browser.wait_until("state OPEN again", &state_is("OPEN"));
    let before = count(&mut browser, "received");
    browser.wait_until("messages come again", &entries_at_least("received", before + 2));
    browser.wait_until(
        "the plot shows two connections",
        "document.querySelectorAll('#plot .connected').length === 2",
    );

    // The typed text is still there. Another Enter sends it.
    browser.press("Enter");
    server.wait_for_log("the server is away");

    server.terminate();
    browser.wait_until(
        "the server's goodbye is shown with code and meaning",
        &log_says("Closed with 1001 (going away)"),
    );
}

#[test]
#[ignore = "starts a browser"]
fn enter_sends_the_text_and_the_server_logs_it() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = Server::start(0);
    browser.open(&server.url());
    browser.wait_until("state OPEN", &state_is("OPEN"));

    let mut order = Vec::new();
    for _ in 0..7 {
        browser.press("Tab");
        order.push(browser.text("document.activeElement.id"));
    }
    assert_eq!(order, ["connect", "disconnect", "clear", "log", "text", "send", "auto"]);

    browser.evaluate("document.getElementById('text').focus()");
    browser.type_text("typed by hand, <b>not markup</b>, 안녕하세요");
    browser.press("Enter");
    server.wait_for_log("typed by hand");
    browser.wait_until("the log shows it as text", &log_says("typed by hand, <b>not markup</b>, 안녕하세요"));
    assert_eq!(
        browser.text("document.getElementById('text').value"),
        "",
        "the box is empty for the next message"
    );

    // The switch is turned off by keyboard. Four ticks of the server are more than 3 s, in which nothing is sent.
    browser.evaluate("document.getElementById('auto').focus()");
    browser.press(" ");
    assert_eq!(browser.evaluate("document.getElementById('auto').checked"), false);
    let (sent, received) = (count(&mut browser, "sent"), count(&mut browser, "received"));
    browser.wait_until("the server goes on", &entries_at_least("received", received + 4));
    assert_eq!(count(&mut browser, "sent"), sent, "the switch is off and yet something was sent");
    browser.press(" ");
    browser.wait_until("the switch sends again", &entries_at_least("sent", sent + 1));
}

#[test]
#[ignore = "starts a browser"]
fn a_deliberate_disconnect_stays_disconnected_until_connect() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = Server::start(0);
    browser.open(&server.url());
    browser.wait_until("state OPEN", &state_is("OPEN"));

    browser.evaluate("document.getElementById('disconnect').click()");
    browser.wait_until("state CLOSED", &state_is("CLOSED"));
    browser.wait_until("the close code is shown", &log_says("Closed with 1000 (normal closure)"));
    assert_eq!(browser.evaluate("retry"), serde_json::Value::Null, "an attempt to reconnect is planned");
    let sockets =
        |browser: &mut Chromium| browser.requests().iter().filter(|url| url.starts_with("ws:")).count();
    assert_eq!(sockets(&mut browser), 1);
    assert_eq!(browser.complaints(), [""; 0]);

    browser.evaluate("document.getElementById('connect').click()");
    browser.wait_until("state OPEN again", &state_is("OPEN"));
    assert_eq!(sockets(&mut browser), 2);
}

#[test]
#[ignore = "starts a browser"]
fn with_topics_the_address_names_the_room_of_the_page() {
    let _turn = turn();
    let Some(mut browser) = Chromium::start() else { return };
    let server = Server::start_with(0, &["--topics"]);
    browser.open(&format!("{}room/7", server.url()));
    browser.wait_until("state OPEN", &state_is("OPEN"));
    let address = browser.text("document.getElementById('address').textContent");
    assert_eq!(address, format!("ws://{}/room/7", server.host()));
    let came = |text: &str| {
        format!(
            "[...document.querySelectorAll('#entries .received')].some((entry) => entry.textContent.includes('{text}'))"
        )
    };

    let second = browser.new_tab();
    browser.open(&format!("{}room/7?again", server.url()));
    browser.wait_until("its greeting is passed on to itself", &came("Hello from the browser!"));
    let third = browser.new_tab();
    browser.open(&format!("{}room/8", server.url()));
    browser.wait_until("its greeting is passed on to itself", &came("Hello from the browser!"));

    browser.turn_to(second);
    browser.evaluate("send('only in room 7'), 0");
    for tab in [0, second] {
        browser.turn_to(tab);
        browser.wait_until("it comes to the room", &came("only in room 7"));
    }
    browser.turn_to(third);
    browser.evaluate("send('only in room 8'), 0");
    browser.wait_until("the other room goes on", &came("only in room 8"));
    assert_eq!(browser.evaluate(&came("only in room 7")), false);
    assert_eq!(browser.complaints(), [""; 0]);
}

/// nginx removes `/app` from the path before it passes the request on.
#[test]
#[ignore = "starts a browser"]
fn the_page_finds_its_socket_below_a_prefix() {
    let _turn = turn();
    let (Some(mut browser), Some(nginx)) = (Chromium::start(), program("nginx")) else { return };
    let server = Server::start_with(0, &["--path", "/ws"]);
    let backend = server.host().parse().expect("an address");
    let nginx = Nginx::with(&nginx, |addr| below_app(addr, backend));
    browser.open(&format!("http://{}/app/", nginx.addr()));
    browser.wait_until("state OPEN", &state_is("OPEN"));
    assert_eq!(browser.text("socket.url"), format!("ws://{}/app/ws", nginx.addr()));
    server.wait_for_log("Hello from the browser!");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Checks that the word on the page and the socket's own state agree.
fn state_is(state: &str) -> String {
    format!(
        "document.getElementById('state').textContent === '{state}' && socket.readyState === WebSocket.{state}"
    )
}

fn entries_at_least(direction: &str, count: u64) -> String {
    format!("document.querySelectorAll('#entries .{direction}').length >= {count}")
}

fn count(browser: &mut Chromium, direction: &str) -> u64 {
    browser
        .evaluate(&format!("document.querySelectorAll('#entries .{direction}').length"))
        .as_u64()
        .expect("a number")
}

fn log_says(text: &str) -> String {
    format!("document.getElementById('entries').textContent.includes({})", serde_json::Value::from(text))
}

/// Checks the number of marks inside the picture, in each row.
fn marks_at_least(received: u32, sent: u32) -> String {
    format!(
        "(() => {{ const frame = document.getElementById('plot').getBoundingClientRect();
           const inside = (row) => [...document.querySelectorAll(`#${{row}} .mark`)].filter((mark) => {{
             const box = mark.getBoundingClientRect();
             return box.left >= frame.left && box.right <= frame.right && box.height > 20 }}).length;
           return inside('received') >= {received} && inside('sent') >= {sent} }})()"
    )
}

/// Returns how many pixels of a row's colour are on the screen, above and below the middle line of the plot.
fn coloured_pixels(browser: &mut Chromium, row: &str) -> (u64, u64) {
    let picture = browser.screenshot();
    let pair = browser.evaluate(&format!(
        "(async () => {{
           const image = new Image();
           image.src = 'data:image/png;base64,{picture}';
           await image.decode();
           const box = document.getElementById('plot').getBoundingClientRect(), ratio = image.width / innerWidth;
           const canvas = document.createElement('canvas');
           [canvas.width, canvas.height] = [box.width * ratio, box.height * ratio];
           const context = canvas.getContext('2d');
           context.drawImage(image, -box.left * ratio, -box.top * ratio);
           const hex = getComputedStyle(document.getElementById('{row}')).getPropertyValue('--mark').trim();
           const colour = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
           const line = document.querySelector('#plot .connected').getBoundingClientRect();
           const middle = ((line.top + line.bottom) / 2 - box.top) * ratio;
           const {{ data }} = context.getImageData(0, 0, canvas.width, canvas.height);
           const found = [0, 0];
           for (let at = 0; at < data.length; at += 4)
             if (colour.every((value, part) => Math.abs(value - data[at + part]) < 12))
               found[at / 4 / canvas.width < middle ? 0 : 1] += 1;
           return found }})()"
    ));
    let number = |index: usize| pair[index].as_u64().unwrap_or_else(|| panic!("no pair of counts: {pair}"));
    (number(0), number(1))
}

fn kept(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

/// One browser at a time, because several on two cores only wait for each other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner) // a test that failed leaves no broken state behind in ()
}

/// The binary with a tick every second. Dropping it kills it.
struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>, // its stderr so far, filled by a thread
}

impl Server {
    /// Starts the server on this port. Port 0 takes a free one.
    fn start(port: u16) -> Server {
        Self::start_with(port, &[])
    }

    fn start_with(port: u16, options: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_threadws"))
            .args(["--every", "1s", "--listen", &format!("127.0.0.1:{port}")])
            .args(options)
            .env_remove("THREADWS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the server");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut server = Server { child, port, log: Arc::default() };

        let log = Arc::clone(&server.log);
        thread::spawn(move || {
            for line in BufReader::new(stderr.expect("stderr is piped")).lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        let (first, incoming) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout.expect("stdout is piped")).read_line(&mut line);
            first.send(read.map(|_| line)).ok(); // the test may have given up waiting
        });
        let line = incoming.recv_timeout(Duration::from_secs(10));
        let line = line.ok().and_then(Result::ok).unwrap_or_default();
        server.port = line
            .strip_prefix("threadws listening on http")
            .and_then(|rest| rest.split("://127.0.0.1:").nth(1)?.split('/').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no address within 10 s but {line:?}; stderr:\n{}", server.log()));
        server
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("http://{}/", self.host())
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "not in the server's log after 10 s: {text:?}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a crash does: without a Close frame.
    fn kill(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("wait for the server");
    }

    /// Ends it as an administrator does.
    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal the server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok(); // it may have ended
        self.child.wait().ok();
    }
}
