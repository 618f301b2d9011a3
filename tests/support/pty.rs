//! A program on a pseudo-terminal, and the rows that its user sees.

use super::programs::program;
use super::time::eventually;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use unicode_width::UnicodeWidthChar as _;

const ROWS: u16 = 24;

/// A program whose stdin, stdout and stderr are a terminal of its own. It is killed when this is dropped, and its screen
/// is shown when the test fails.
pub struct Pty {
    child: Child,
    controller: File,
    screen: Arc<Mutex<Screen>>,
    drawing: Option<JoinHandle<()>>,
}

impl Pty {
    /// Starts a program. Returns `None` if `setsid` is missing, which gives the program its controlling terminal.
    #[track_caller]
    pub fn spawn(command: &Command, columns: u16) -> Option<Self> {
        let mut words = Command::new(program("setsid")?);
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a pseudo-terminal");
        let name = ptsname(&controller, Vec::new()).expect("its name").into_bytes();
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .open(std::ffi::OsString::from_vec(name))
            .expect("the terminal");
        let clone = || terminal.try_clone().expect("a descriptor");
        words.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => words.env(name, value),
                None => words.env_remove(name),
            };
        }
        words.stdin(clone()).stdout(clone()).stderr(clone());
        let controller = File::from(controller);
        let screen = Arc::new(Mutex::new(Screen::new(columns)));
        set_size(&controller, columns);
        let child = words.spawn().expect("the program starts");
        let (mut output, drawn) = (controller.try_clone().expect("a descriptor"), Arc::clone(&screen));
        let drawing = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error when the program has ended.
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                drawn.lock().unwrap_or_else(PoisonError::into_inner).feed(&bytes[..read]);
            }
        });
        Some(Self { child, controller, screen, drawing: Some(drawing) })
    }

    /// Presses keys.
    #[track_caller]
    pub fn keys(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Changes the number of columns, as a user who drags the border of a window. The rows keep their text.
    pub fn resize(&mut self, columns: u16) {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).columns = usize::from(columns);
        set_size(&self.controller, columns);
    }

    /// Returns all rows so far, those that were scrolled away included.
    pub fn rows(&self) -> Vec<String> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).rows_from(0)
    }

    /// Waits until the last rows are these, the last one with the cursor.
    #[track_caller]
    pub fn wait_for_last(&self, last: &[&str]) {
        eventually(&format!("the last rows {last:?}"), || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            let first = screen.cells.len().saturating_sub(last.len());
            screen.row + 1 == screen.cells.len() && screen.rows_from(first) == last
        });
    }

    /// Waits for a row that contains this text.
    #[track_caller]
    pub fn wait_for_row(&self, text: &str) -> String {
        let mut found = None;
        eventually(&format!("a row with {text:?}"), || {
            found = self.rows().into_iter().find(|row| row.contains(text));
            found.is_some()
        });
        found.expect("it was found")
    }

    /// Returns the column of the cursor.
    pub fn column(&self) -> usize {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).column
    }

    /// Returns whether the terminal shows what is typed, as it did before the program.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.controller).expect("a terminal").local_modes.contains(LocalModes::ECHO)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Waits for its end, and for the last rows.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        if let Some(drawing) = self.drawing.take() {
            drawing.join().expect("a screen that knows all sequences");
        }
        status.expect("it ended")
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            println!("the screen:\n{}", self.rows().join("\n"));
        }
    }
}

fn set_size(controller: &File, columns: u16) {
    let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(controller, size).expect("a terminal");
}

/// The part of a terminal that a line editor needs. A character of two columns has an empty second cell.
struct Screen {
    columns: usize,
    cells: Vec<Vec<String>>,
    row: usize,
    column: usize,
    /// The beginning of a character or of an escape sequence.
    pending: Vec<u8>,
}

impl Screen {
    fn new(columns: u16) -> Self {
        Self {
            columns: usize::from(columns),
            cells: vec![Vec::new()],
            row: 0,
            column: 0,
            pending: Vec::new(),
        }
    }

    fn rows_from(&self, first: usize) -> Vec<String> {
        self.cells[first..].iter().map(|row| row.concat().trim_end().to_owned()).collect()
    }

    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.pending.push(byte);
            match *self.pending {
                [0x1b] => continue,
                [0x1b, b'['] => continue,
                [0x1b, b'[', .., last] => {
                    if !(0x40..0x7f).contains(&last) {
                        continue;
                    }
                    self.sequence(last);
                }
                [b'\r'] => self.column = 0,
                [b'\n'] => self.line_feed(),
                _ => match std::str::from_utf8(&self.pending).map(str::to_owned) {
                    Ok(text) => self.put(&text),
                    Err(error) if error.error_len().is_none() => continue,
                    Err(_) => panic!("not UTF-8: {:?}", self.pending),
                },
            }
            self.pending.clear();
        }
    }

    fn line_feed(&mut self) {
        self.row += 1;
        if self.row == self.cells.len() {
            self.cells.push(Vec::new());
        }
    }

    fn put(&mut self, text: &str) {
        let symbol = text.chars().next().expect("a character");
        let width = symbol.width().unwrap_or_else(|| panic!("a control character: {symbol:?}"));
        if width == 0 {
            if let Some(before) =
                self.column.checked_sub(1).and_then(|column| self.cells[self.row].get_mut(column))
            {
                before.push(symbol);
            }
            return;
        }
        if self.column + width > self.columns {
            self.column = 0;
            self.line_feed();
        }
        let cells = &mut self.cells[self.row];
        if cells.len() < self.column + width {
            cells.resize(self.column + width, " ".to_owned());
        }
        cells[self.column] = text.to_owned();
        if width == 2 {
            cells[self.column + 1].clear();
        }
        self.column += width;
    }

    fn sequence(&mut self, last: u8) {
        let parameters = String::from_utf8_lossy(&self.pending[2..self.pending.len() - 1]).into_owned();
        let number = parameters.parse().unwrap_or(if matches!(last, b'J' | b'K') { 0 } else { 1 });
        match (last, number) {
            (b'C', columns) => self.column = (self.column + columns).min(self.columns - 1),
            (b'K', 0) => self.cells[self.row].truncate(self.column),
            (b'J', 0) => {
                self.cells[self.row].truncate(self.column);
                self.cells.truncate(self.row + 1);
            }
            (b'H', 1) => (self.row, self.column) = (self.cells.len().saturating_sub(usize::from(ROWS)), 0),
            (b'm', _) => {}
            _ => panic!("a sequence that this screen does not know: {:?}", self.pending),
        }
    }
}
