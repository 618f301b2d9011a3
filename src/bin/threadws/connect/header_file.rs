//! Reads the file of `--header-file`.

use crate::CommandError;
use crate::args::connect::ConnectOptions;
use crate::args::values;
use std::fs::File;
use std::io::Read;

/// The largest header file, in bytes: four times the request head that this library's server accepts.
const MAX_HEADER_FILE: u64 = 64 * 1024;

/// The headers of a file. Empty without a file.
#[derive(Debug, Default)]
pub(super) struct HeaderFile(Vec<FileHeader>);

/// A name and a value, and the place of the line for errors.
#[derive(Debug)]
struct FileHeader {
    place: String,
    header: (String, String),
}

/// Reads the file, if the options name one.
pub(super) fn read(options: &ConnectOptions) -> Result<HeaderFile, CommandError> {
    let Some(file) = &options.header_file else { return Ok(HeaderFile::default()) };
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
        let place = format!("--header-file {file:?}: line {}: ", index + 1);
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned());
        match line.and_then(values::header) {
            Ok(header) => Ok(FileHeader { place, header }),
            Err(error) => Err(CommandError::Usage(place + &error)),
        }
    };
    Ok(HeaderFile(lines.map(header).collect::<Result<_, _>>()?))
}

impl HeaderFile {
    /// Lists the names and values.
    pub(super) fn headers(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter().map(|line| &line.header)
    }

    /// Returns an error of the library with the line that it is about, if it begins with the name of a header in the file.
    pub(super) fn locate(&self, error: &str) -> String {
        let name = error.strip_prefix("header ").and_then(|rest| rest.split(':').next()).unwrap_or_default();
        let line = self.0.iter().find(|line| line.header.0.eq_ignore_ascii_case(name));
        line.map_or("", |line| &line.place).to_owned() + error
    }
}
