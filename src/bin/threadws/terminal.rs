//! A terminal on which a user types while messages and log lines arrive. They are written above the typed line.
//!
//! Only the screen's thread writes to stdout. The other threads send it what they read or want to show. The lock holds a
//! sender of its queue; nothing is sent under the lock.

mod keys;
mod line_editor;

use crate::stdio::Blocking;
use line_editor::{KeyRequest, LineEditor};
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

const PROMPT: &str = "> ";
/// How many events wait for the screen. A terminal that is slower than the server slows down the reading from it.
const MAX_EVENTS: usize = 16;
/// The longest output, in bytes, before the typed line is drawn again.
const MAX_OUTPUT: usize = 16 * 1024;
/// The columns of a terminal that does not know its size.
const COLUMNS: usize = 80;

/// A sender to the screen's thread, and the modes before editing, for threads that do not have the [`Terminal`].
static IN_USE: Mutex<Option<(SyncSender<ScreenEvent>, Termios)>> = Mutex::new(None);
/// Set by [`stop_editing`]. `Relaxed` is enough, because nothing else depends on it.
static IS_STOPPED: AtomicBool = AtomicBool::new(false);

/// A request to the screen's thread.
enum ScreenEvent {
    /// Keys.
    Typed(Vec<u8>),
    /// Nothing more can be typed.
    InputEnded,
    /// Whole lines to show.
    Print(Vec<u8>),
    /// Another thread writes to the terminal itself: the typed line is hidden, and shown again when `written` is closed.
    Lend {
        hidden: SyncSender<()>,
        written: Receiver<()>,
    },
    /// The size may have changed, or the shell may have changed the modes.
    Redraw,
    /// The user pressed Ctrl-Z.
    Suspend,
    /// Makes the thread look at [`IS_STOPPED`].
    Wake,
    End,
}

/// A line of the user, or the end of them.
pub(crate) enum Entry {
    Line(String),
    /// Ctrl-D on an empty line, or the terminal is gone.
    End,
}

/// The text that is shown instead of the entered line, and whether the user may type more.
pub(crate) struct Echo {
    pub(crate) text: String,
    pub(crate) goes_on: bool,
}

/// Whether a line can be edited: stdin and stdout are a terminal that moves its cursor.
pub(crate) fn is_usable() -> bool {
    let term = std::env::var_os("TERM");
    io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// A running terminal.
pub(crate) struct Terminal {
    events: SyncSender<ScreenEvent>,
    screen: JoinHandle<()>,
}

impl Terminal {
    /// Starts editing. `enter` is called for each entry, and must not wait.
    pub(crate) fn start(enter: impl FnMut(Entry) -> Echo + Send + 'static) -> io::Result<Self> {
        let (events, next) = mpsc::sync_channel(MAX_EVENTS);
        let mut signals = Signals::new([SIGWINCH, SIGCONT, SIGTSTP])?;
        let modes = Modes::edit()?;
        *IN_USE.lock().unwrap_or_else(PoisonError::into_inner) = Some((events.clone(), modes.before.clone()));
        let screen =
            Screen { editor: Some(LineEditor::default()), modes, is_shown: false, output: Vec::new(), enter };
        let screen = spawn("threadws-screen", move || screen.run(&next))?;
        let to_screen = events.clone();
        spawn("threadws-keys", move || read_keys(&to_screen))?;
        let to_screen = events.clone();
        spawn("threadws-resize", move || {
            for signal in signals.forever() {
                let event = if signal == SIGTSTP { ScreenEvent::Suspend } else { ScreenEvent::Redraw };
                if to_screen.send(event).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { events, screen })
    }

    /// Shows whole lines above the typed line.
    pub(crate) fn print(&self, lines: Vec<u8>) {
        // Fails only if the screen's thread panicked, which was logged.
        drop(self.events.send(ScreenEvent::Print(lines)));
    }

    /// Shows what was printed before, and gives the terminal its modes back. An unfinished line stays visible.
    pub(crate) fn end(self) {
        drop(self.events.send(ScreenEvent::End));
        // The panic of the thread was logged.
        drop(self.screen.join());
    }
}

/// Gives the terminal its modes back, if one is in use: the next signal ends the process at once. Never waits, because the
/// screen's thread may be waiting for a terminal that takes no output.
pub(crate) fn stop_editing() {
    if let Some((events, modes)) = in_use() {
        // It fails if the terminal is gone.
        drop(set_modes(&modes));
        IS_STOPPED.store(true, Ordering::Relaxed);
        // The thread does not sleep if the queue is full, and is gone if it is closed.
        drop(events.try_send(ScreenEvent::Wake));
    }
}

/// Hides the typed line, if there is one, until the result is dropped. The caller may write to the terminal meanwhile.
pub(crate) fn hide_typed_line() -> Option<SyncSender<()>> {
    // A log in a file does not touch the typed line.
    let (events, _) = in_use().filter(|_| io::stderr().is_terminal())?;
    let (hide, hidden) = mpsc::sync_channel(0);
    let (write, written) = mpsc::sync_channel(0);
    events.send(ScreenEvent::Lend { hidden: hide, written }).ok()?;
    // An error means that the thread has ended.
    hidden.recv().ok()?;
    Some(write)
}

fn in_use() -> Option<(SyncSender<ScreenEvent>, Termios)> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Reads keys until the terminal or the screen's thread is gone.
fn read_keys(events: &SyncSender<ScreenEvent>) {
    let mut stdin = Blocking(io::stdin());
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = stdin.read(&mut bytes) {
        if events.send(ScreenEvent::Typed(bytes[..read].to_vec())).is_err() {
            return;
        }
    }
    // Fails only if the screen's thread is gone.
    drop(events.send(ScreenEvent::InputEnded));
}

fn set_modes(modes: &Termios) -> io::Result<()> {
    Ok(tcsetattr(io::stdin(), OptionalActions::Now, modes)?)
}

/// The modes of the terminal for editing, and those before. The latter are set when this is dropped.
struct Modes {
    before: Termios,
    editing: Termios,
}

impl Modes {
    fn edit() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut editing = before.clone();
        // Keys come at once, and are not shown by the terminal. Ctrl-C, Ctrl-Z and Ctrl-\ still send their signals.
        editing.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
        editing.input_modes.remove(InputModes::INLCR | InputModes::IGNCR | InputModes::ISTRIP);
        set_modes(&editing)?;
        Ok(Self { before, editing })
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        // It fails if the terminal is gone.
        drop(set_modes(&self.before));
    }
}

/// The screen. Its thread is the only one that writes to stdout.
struct Screen<F> {
    /// `None` after the last entry.
    editor: Option<LineEditor>,
    modes: Modes,
    /// The typed line is on the screen, and the cursor is in it.
    is_shown: bool,
    /// Bytes that were not written yet.
    output: Vec<u8>,
    enter: F,
}

impl<F: FnMut(Entry) -> Echo> Screen<F> {
    fn run(mut self, events: &Receiver<ScreenEvent>) {
        loop {
            if self.editor.is_some() && IS_STOPPED.load(Ordering::Relaxed) {
                self.stop_editing();
            }
            // The typed line is drawn once for all the output that is waiting, in the same write. In a flood of messages
            // it is then visible, too.
            let event = if self.output.len() < MAX_OUTPUT { events.try_recv().ok() } else { None };
            let event = event.or_else(|| {
                if !self.is_shown {
                    self.draw();
                }
                self.flush();
                events.recv().ok()
            });
            match event {
                Some(ScreenEvent::Typed(bytes)) => self.typed(&bytes),
                Some(ScreenEvent::InputEnded) => self.entered(Entry::End),
                Some(ScreenEvent::Print(lines)) => {
                    self.hide();
                    self.output.extend(lines);
                }
                Some(ScreenEvent::Lend { hidden, written }) => {
                    self.hide();
                    self.flush();
                    if hidden.send(()).is_ok() {
                        // Ends with an error when the other thread has written.
                        let _ = written.recv();
                    }
                }
                Some(ScreenEvent::Redraw) => self.resume(),
                Some(ScreenEvent::Suspend) => {
                    self.hide();
                    self.flush();
                    drop(set_modes(&self.modes.before));
                    // Stops the process until SIGCONT.
                    drop(emulate_default_handler(SIGTSTP));
                    self.resume();
                }
                Some(ScreenEvent::Wake) => {}
                Some(ScreenEvent::End) | None => return self.stop_editing(),
            }
        }
    }

    fn typed(&mut self, bytes: &[u8]) {
        let requests = self.editor.as_mut().map(|editor| editor.feed(bytes));
        for request in requests.unwrap_or_default() {
            match request {
                KeyRequest::Line(line) => self.entered(Entry::Line(line)),
                KeyRequest::EndOfInput => self.entered(Entry::End),
                KeyRequest::ClearScreen => self.output.extend(b"\x1b[H\x1b[J"),
            }
        }
        self.draw();
    }

    fn entered(&mut self, entry: Entry) {
        if self.editor.is_none() {
            return;
        }
        let echo = (self.enter)(entry);
        self.hide();
        self.output.extend(echo.text.as_bytes());
        if !echo.goes_on {
            self.stop_editing();
        }
    }

    /// Draws the typed line in the row of the cursor.
    fn draw(&mut self) {
        let Some(editor) = &self.editor else { return };
        let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        let columns = if columns == 0 { COLUMNS } else { columns };
        let (row, cursor) = editor.row(columns.saturating_sub(PROMPT.len()));
        let column = PROMPT.len() + cursor;
        self.output.extend(format!("\r{PROMPT}{row}\x1b[K\r\x1b[{column}C").as_bytes());
        self.is_shown = true;
    }

    fn hide(&mut self) {
        if self.is_shown {
            self.output.extend(b"\r\x1b[K");
            self.is_shown = false;
        }
    }

    /// Sets the modes again, and draws the line again: the shell has used the terminal, or the row has another width.
    fn resume(&mut self) {
        if self.editor.is_some() {
            drop(set_modes(&self.modes.editing));
            self.draw();
        }
    }

    fn stop_editing(&mut self) {
        if self.editor.as_ref().is_some_and(|editor| !editor.is_empty()) {
            // An unfinished line stays, so that its user can copy it.
            self.draw();
            self.output.extend(b"\r\n");
            self.is_shown = false;
        }
        self.hide();
        self.flush();
        if self.editor.take().is_some() {
            drop(set_modes(&self.modes.before));
        }
    }

    fn flush(&mut self) {
        // It fails if the terminal is gone, and then reading the keys ends, too.
        drop(Blocking(io::stdout()).write_all(&self.output));
        self.output.clear();
    }
}
