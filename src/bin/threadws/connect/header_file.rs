//! Reads the file of `--header-file`.

use crate::CommandError;
use crate::args::connect::ConnectOptions;
use crate::args::values;
use std::fs::File;
use std::io::Read;

/// The largest header file, in bytes: four times the request head that this library's server accepts.
const MAX_HEADER_FILE: u64 = 64 * 1024;

/// Returns the names and values in the file, none without a file.
pub(super) fn read(options: &ConnectOptions) -> Result<Vec<(String, String)>, CommandError> {
    let Some(file) = &options.header_file else { return Ok(Vec::new()) };
    let mut text = Vec::new();
    // Limited, because the file may be a device without an end.
    let read = File::open(file).and_then(|opened| opened.take(MAX_HEADER_FILE + 1).read_to_end(&mut text));
    let bytes = read
        .map_err(|error| CommandError::Failed(format!("cannot read the --header-file {file:?}: {error}")))?;
    if bytes as u64 > MAX_HEADER_FILE {
        let error = format!("--header-file {file:?}: larger than {MAX_HEADER_FILE} bytes");
        return Err(CommandError::Usage(error));
    }
    // Editors on Windows begin a file with a byte order mark.
    let lines = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text).split(|byte| *byte == b'\n');
    let lines = lines.enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let header = |(index, line)| {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned());
        line.and_then(values::header).map_err(|error| {
            CommandError::Usage(format!("--header-file {file:?}: line {}: {error}", index + 1))
        })
    };
    lines.map(header).collect()
}
