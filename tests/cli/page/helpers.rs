//! The server behind the page, and what can be seen on the page.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use support::chromium::Chromium;

/// The address that the page shows.
pub(super) const ADDRESS: &str =
    "document.getElementById('host').textContent + document.getElementById('path').value";

/// The three sizes of windows, with names.
const SIZES: [(&str, u32, u32); 3] = [("desktop", 1280, 900), ("laptop", 1366, 768), ("phone", 390, 844)];

/// Checks that the word on the page and the socket's own state agree.
pub(super) fn state_is(word: &str) -> String {
    format!(
        "document.getElementById('state').textContent === '{word}' \
         && (socket?.readyState === WebSocket.OPEN) === ('{word}' === 'Open')"
    )
}

/// Expects that the state and everything for sending are in sight at each size, in light and dark, without scrolling. Keeps
/// screenshots.
#[track_caller]
pub(super) fn expect_all_in_sight(browser: &mut Chromium, state: &str) {
    for (size, width, height) in SIZES {
        for scheme in ["light", "dark"] {
            browser.show(width, height, scheme);
            browser.keep_screenshot(&kept(&format!("{state}-{size}-{scheme}")));
            let hidden = browser.evaluate(
                "['state', 'notice', 'connect', 'disconnect', 'path', 'protocols', 'log', 'text', 'send', 'auto', 'tips']
                   .filter((id) => {
                     const box = document.getElementById(id).getBoundingClientRect();
                     return box.left < 0 || box.top < 0 || box.right > innerWidth || box.bottom > innerHeight })",
            );
            assert_eq!(hidden, serde_json::json!([]), "out of sight, {state} at {width} x {height}");
            let fits = "document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.evaluate(fits), true, "{state} at {width} x {height} scrolls sideways");
            let log = browser.evaluate(
                "(({ clientHeight, scrollTop, scrollHeight }) =>
                   [clientHeight, Math.round(scrollHeight - scrollTop - clientHeight)])(document.getElementById('log'))",
            );
            let (height_of_log, below) = (log[0].as_u64(), log[1].as_u64());
            assert!(
                height_of_log > Some(120),
                "{state} at {width} x {height}: the log has {height_of_log:?} px"
            );
            assert!(below < Some(24), "{state} at {width} x {height}: {below:?} px below what the log shows");
        }
    }
}

/// Checks the colour of the state, and of the entry of the log that contains a text.
#[track_caller]
pub(super) fn expect_colour(browser: &mut Chromium, entry: &str, variable: &str) {
    browser.wait_until("the log has the entry", &log_says(entry));
    let colours = browser.evaluate(&format!(
        "(() => {{
           const probe = document.createElement('p');
           document.body.append(probe);
           probe.style.color = 'var({variable})';
           const entry = [...document.querySelectorAll('#entries .text')].find((text) => text.textContent.includes('{entry}'));
           const colours = [probe, document.getElementById('state'), entry].map((node) => getComputedStyle(node).color);
           probe.remove();
           return colours }})()"
    ));
    assert_eq!((&colours[0], &colours[0]), (&colours[1], &colours[2]), "{variable}: {colours}");
}

pub(super) fn entries_at_least(direction: &str, count: u64) -> String {
    format!("document.querySelectorAll('#entries .{direction}').length >= {count}")
}

pub(super) fn count(browser: &mut Chromium, direction: &str) -> u64 {
    browser
        .evaluate(&format!("document.querySelectorAll('#entries .{direction}').length"))
        .as_u64()
        .expect("a number")
}

pub(super) fn log_says(text: &str) -> String {
    format!("document.getElementById('entries').textContent.includes({})", serde_json::Value::from(text))
}

/// Checks the number of bars inside the picture, in each row.
pub(super) fn bars_at_least(received: u32, sent: u32) -> String {
    format!(
        "(() => {{ const frame = document.getElementById('plot').getBoundingClientRect();
           const inside = (row) => [...document.querySelectorAll(`#${{row}} .bar`)].filter((bar) => {{
             const box = bar.getBoundingClientRect();
             return box.left >= frame.left && box.right <= frame.right && box.height > 5 }}).length;
           return inside('received') >= {received} && inside('sent') >= {sent} }})()"
    )
}

/// Returns how many pixels of a row's colour are on the screen, above and below the middle line of the plot.
pub(super) fn coloured_pixels(browser: &mut Chromium, row: &str) -> (u64, u64) {
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
pub(super) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner) // a test that failed leaves no broken state behind in ()
}

/// The binary with a tick every second. Dropping it kills it.
pub(super) struct Server {
    child: Child,
    host: String,
    log: Arc<Mutex<String>>, // its stderr so far, filled by a thread
}

impl Server {
    /// Starts the server on a free port.
    pub(super) fn start(options: &[&str]) -> Server {
        Self::start_at("127.0.0.1:0", options)
    }

    pub(super) fn start_at(address: &str, options: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_threadws"))
            .args(["--every", "1s", "--listen", address])
            .args(options)
            .env_remove("THREADWS_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the server");
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut server = Server { child, host: String::new(), log: Arc::default() };

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
        server.host = line
            .strip_prefix("threadws listening on http")
            .and_then(|rest| Some(rest.split_once("://")?.1.split('/').next()?.to_owned()))
            .unwrap_or_else(|| panic!("no address within 10 s but {line:?}; stderr:\n{}", server.log()));
        server
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.host)
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn wait_for_log(&self, text: &str) {
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
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("kill the server");
        self.child.wait().expect("wait for the server");
    }

    /// Ends it as an administrator does.
    pub(super) fn terminate(&self) {
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
