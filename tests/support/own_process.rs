//! Tests that need a process of their own, because they read or change what belongs to a whole process: its logger, its
//! limits, its descriptors, its threads.

use std::process::{Command, Stdio};

const IS_CHILD: &str = "THREADWS_TEST_OWN_PROCESS";

/// Runs the body of a test in a new process: this test binary, started again with this test only.
///
/// The whole test has to be the closure, because its name is found from the closure's.
#[track_caller]
pub fn in_own_process<F: FnOnce()>(test: F) {
    if std::env::var_os(IS_CHILD).is_some() {
        return test();
    }
    // "suite::module::test::{{closure}}"
    let name = std::any::type_name::<F>();
    let name = name.split_once("::").and_then(|(_suite, name)| name.strip_suffix("::{{closure}}"));
    let name = name.expect("a closure in a test in a module");
    let this = std::env::current_exe().expect("a test binary");
    let mut child = Command::new(this);
    // With one thread the harness would run the test in its main thread, which has another name.
    child.args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=2"]);
    let output = child.env(IS_CHILD, "1").stdin(Stdio::null()).output().expect("it was started once");
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}");
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "the test failed in its own process");
}
