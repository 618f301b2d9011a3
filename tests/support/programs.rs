//! External programs: nginx, Node, Python. A test whose program is missing is skipped, and prints so.

use super::time::test_name;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// The tested versions of npm's `ws`, and of Python's `websockets` and `trustme`.
const WS: &str = "ws@8.18.3";
const PYTHON: &str = "websockets==15.0.1 trustme==1.2.1";

/// Returns the path of a program, or `None` if the test is to be skipped. With `THREADWS_REQUIRE_ALL=1` a missing program is
/// a failure.
///
/// ```ignore
/// let Some(nginx) = program("nginx") else { return };
/// ```
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("{name} is missing"));
    }
    found
}

/// Prints why a test is skipped, past the captured output. Fails if `THREADWS_REQUIRE_ALL=1`.
pub fn skip(why: &str) {
    assert!(
        std::env::var_os("THREADWS_REQUIRE_ALL").is_none_or(|all| all != "1"),
        "THREADWS_REQUIRE_ALL=1: {why}"
    );
    drop(writeln!(std::io::stderr(), "skipped: {}: {why}", test_name()));
}

/// Returns a command for `node` with npm's `ws`. The script finds it in the folder that `THREADWS_WS` names.
pub fn node(script: &str, arguments: &[&str]) -> Option<Command> {
    let (node, npm) = (program("node")?, program("npm")?);
    let folder = installed(WS, |folder| {
        let mut install = Command::new(&npm);
        install.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--ignore-scripts",
            "--loglevel=error",
        ]);
        install.arg("--prefix").arg(folder).arg(WS);
        install
    })?;
    let mut command = Command::new(node);
    command.arg(script_path(script)).args(arguments).env("THREADWS_WS", folder);
    Some(command)
}

/// Returns a command for `python3` with `websockets` and `trustme`.
pub fn python(script: &str, arguments: &[&str]) -> Option<Command> {
    let python = program("python3")?;
    let folder = installed(PYTHON, |folder| {
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
        install.arg("--target").arg(folder).args(PYTHON.split(' '));
        install
    })?;
    let mut command = Command::new(python);
    // -B writes no bytecode beside the scripts.
    command.arg("-B").arg(script_path(script)).args(arguments).env("PYTHONPATH", folder);
    Some(command)
}

fn script_path(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("interop").join(script)
}

/// Returns the path of a program that cargo builds for `cargo test`. (`CARGO_BIN_EXE_threadws` exists only while a suite is
/// compiled.)
pub fn built(name: &str) -> PathBuf {
    profile_folder().join(name)
}

/// Returns cargo's folder for the files of tests, `CARGO_TARGET_TMPDIR` in a suite.
pub fn target_tmp() -> PathBuf {
    profile_folder().with_file_name("tmp")
}

/// Returns `target/debug`. The test binary is in it, or in its folder `deps`.
fn profile_folder() -> PathBuf {
    let mut path = std::env::current_exe().expect("a test binary");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// Returns the folder in which packages are installed, below the target folder. They are installed once for all runs.
fn installed(package: &str, install: impl FnOnce(&OsStr) -> Command) -> Option<PathBuf> {
    // Otherwise two tests of this process would both install it. Of two processes, the one that renames later loses.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _turn = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = target_tmp();
    let done = target.join(package.replace(['@', '=', ' '], "-"));
    if done.is_dir() {
        return Some(done);
    }
    let fresh = target.join(format!("install-{}", std::process::id()));
    std::fs::create_dir_all(&fresh).expect("a folder below the target folder");
    let output = install(fresh.as_os_str()).stdin(Stdio::null()).output().expect("the installer starts");
    if !output.status.success() {
        drop(std::fs::remove_dir_all(&fresh));
        let why = String::from_utf8_lossy(&output.stderr);
        skip(&format!(
            "{package} cannot be installed: {}",
            why.trim().lines().next().unwrap_or("no word why")
        ));
        return None;
    }
    if std::fs::rename(&fresh, &done).is_err() {
        assert!(done.is_dir(), "{} cannot be renamed to {}", fresh.display(), done.display());
        drop(std::fs::remove_dir_all(&fresh));
    }
    Some(done)
}

/// Returns the path of a file in `tests/certificates/`, which its script `make` has made.
///
/// `server` is for localhost, 127.0.0.1, ::1 and *.threadws.test. `client` is for clients. `ca` has issued them.
pub fn certificate(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("certificates");
    folder.join(file).to_string_lossy().into_owned()
}
