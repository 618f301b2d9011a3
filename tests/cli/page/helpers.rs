//! The server behind the page, and what can be seen on the page.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use support::Process;
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

/// Starts the server on a free port, with a tick every second. Dropping it ends it as a crash does: without a Close frame.
pub(super) fn serve(options: &[&str]) -> Process {
    serve_at("127.0.0.1:0", options)
}

pub(super) fn serve_at(address: &str, options: &[&str]) -> Process {
    Process::threadws_at(address, &[], &[&["--every", "1s"], options].concat())
}

/// Returns the URL of the page.
pub(super) fn url(server: &Process) -> String {
    format!("http://{}/", server.addr())
}
