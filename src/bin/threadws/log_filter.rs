//! Decides which records are logged: a level for each target, in env_logger's syntax. No I/O.

use log::LevelFilter;

/// A level for all targets, and others for some: `info`, `threadws=debug,tungstenite=warn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFilter {
    /// The longest target first, so that the first match is the closest. An empty target matches everything.
    directives: Vec<(String, LevelFilter)>,
}

/// The level of tungstenite unless a directive names it. It logs every handshake at debug and trace.
const TUNGSTENITE: (&str, LevelFilter) = ("tungstenite", LevelFilter::Warn);

impl LogFilter {
    /// Parses a comma-separated list of `level`, `target=level` and `target` (which means `target=trace`).
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut directives = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            directives.push(match part.split_once('=') {
                Some((target, level)) => (target.trim().to_owned(), parse_level(level.trim())?),
                // Another word that is not a level could be a target. But then a misspelt level would silence everything.
                None if part.contains("::") || part == "threadws" || part == "tungstenite" => {
                    (part.to_owned(), LevelFilter::Trace)
                }
                None => (String::new(), parse_level(part)?),
            });
        }
        if directives.is_empty() {
            return Err("no log level given".to_owned());
        }
        // The last of two directives for the same target counts: reversed, it is the first one that `level_of` finds.
        directives.reverse();
        if !directives.iter().any(|(target, _)| covers(TUNGSTENITE.0, target)) {
            let (target, cap) = TUNGSTENITE;
            let level = Self { directives: directives.clone() }.level_of(target);
            directives.push((target.to_owned(), cap.min(level)));
        }
        directives.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        Ok(Self { directives })
    }

    /// One level for all targets.
    pub(crate) fn level(level: LevelFilter) -> Self {
        let (target, cap) = TUNGSTENITE;
        Self { directives: vec![(target.to_owned(), cap.min(level)), (String::new(), level)] }
    }

    /// Returns the most verbose level of this target. A target that no directive covers is off.
    pub(crate) fn level_of(&self, target: &str) -> LevelFilter {
        let found = self.directives.iter().find(|(prefix, _)| covers(prefix, target));
        found.map_or(LevelFilter::Off, |(_, level)| *level)
    }

    /// Returns the most verbose level of any target.
    pub(crate) fn max(&self) -> LevelFilter {
        self.directives.iter().map(|(_, level)| *level).max().unwrap_or(LevelFilter::Off)
    }
}

/// Whether `target` is `prefix` or a module inside it: `threadws` covers `threadws::server`, but not `threadwsx`.
fn covers(prefix: &str, target: &str) -> bool {
    match target.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.is_empty() || rest.starts_with("::"),
        None => false,
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| format!("unknown log level {text:?}: off, error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};

    fn filter(text: &str) -> LogFilter {
        LogFilter::parse(text).expect(text)
    }

    #[test]
    fn the_closest_directive_decides() {
        let filter = filter("warn,threadws=info, threadws::server = debug,other=OFF");
        let expected = [
            ("threadws", Info),
            ("threadws::serve", Info),
            ("threadws::server", Debug),
            ("threadws::server::accept", Debug),
            ("threadws::servers", Info),
            ("threadwsx", Warn),
            ("thread", Warn),
            ("other::deep", Off),
            ("", Warn),
        ];
        for (target, level) in expected {
            assert_eq!(filter.level_of(target), level, "{target}");
        }
        assert_eq!(filter.max(), Debug);
    }

    #[test]
    fn tungstenite_is_capped_at_warn_unless_it_is_named() {
        assert_eq!(filter("trace").level_of("tungstenite::handshake"), Warn);
        assert_eq!(filter("error").level_of("tungstenite::handshake"), Error);
        assert_eq!(filter("off").level_of("tungstenite"), Off);
        assert_eq!(filter("info,tungstenite=trace").level_of("tungstenite::handshake"), Trace);
        assert_eq!(filter("info,tungstenite::handshake").level_of("tungstenite::handshake"), Trace);
        assert_eq!(LogFilter::level(Trace).level_of("tungstenite::handshake"), Warn);
        assert_eq!(LogFilter::level(Off).max(), Off);
    }

    #[test]
    fn other_targets_are_off_if_all_directives_name_a_target() {
        let filter = filter("threadws=debug");
        assert_eq!((filter.level_of("threadws::server"), filter.level_of("else")), (Debug, Off));
        assert_eq!(filter.level_of("tungstenite"), Off);
    }

    #[test]
    fn the_last_of_two_directives_for_one_target_wins() {
        assert_eq!(filter("info,debug").level_of("threadws"), Debug);
        assert_eq!(filter("threadws=debug,threadws=warn").level_of("threadws"), Warn);
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in ["inof", "threadws=loud", "threadws=", "", " , "] {
            LogFilter::parse(text).expect_err(text);
        }
    }
}
