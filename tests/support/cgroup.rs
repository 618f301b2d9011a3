//! A control group of version 1 or 2 that limits a process. It needs root, and a machine where root may create groups.

use super::programs::skip;
use std::fs;
use std::path::PathBuf;

/// A group that is removed when this is dropped. Every process that was started in it must have ended by then.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Creates a group with one controller ("pids", "cpu") and settings, one value for each file. Returns `None` if the
    /// test is to be skipped. For most controllers the files of version 1 and version 2 differ.
    #[track_caller]
    pub fn new(controller: &str, version1: &[(&str, &str)], version2: &[(&str, &str)]) -> Option<Self> {
        let name = format!("threadws-test-{}-{controller}", std::process::id());
        let own_root = PathBuf::from("/sys/fs/cgroup").join(controller);
        let (folder, settings) = if own_root.is_dir() {
            (own_root.join(name), version1)
        } else {
            (PathBuf::from("/sys/fs/cgroup").join(name), version2)
        };
        if let Err(error) = fs::create_dir(&folder) {
            skip(&format!("no control group can be made: {error}"));
            return None;
        }
        let group = Self(folder);
        for (file, value) in settings {
            if let Err(error) = fs::write(group.0.join(file), value) {
                skip(&format!("{file} cannot be set: {error}"));
                return None;
            }
        }
        Some(group)
    }

    /// Returns a number from one of the group's files, by its name in that file.
    #[track_caller]
    pub fn number(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(file)).expect("a file of the group");
        let value = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
        value.trim().parse().expect("a number")
    }

    /// Returns the words that a command has to begin with to run in the group.
    pub fn wrapper(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".into(), "-c".into(), script, "sh".into()]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just been reaped may still be counted.
        for _ in 0..500 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
