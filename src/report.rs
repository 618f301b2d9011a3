//! What is logged: through `log`, and contained. The logger is the program's, and so is what it shows; a panic there costs
//! the line, and no thread of ours.

/// Logs a line. The first word is one of [`log::Level`].
macro_rules! report {
    ($level:ident, $target:literal, $($line:tt)+) => {{
        let line = || ::log::log!(target: $target, ::log::Level::$level, $($line)+);
        // The panic hook has told of it, and there is no logger to tell.
        drop(::std::panic::catch_unwind(::std::panic::AssertUnwindSafe(line)));
    }};
}

pub(crate) use report;
