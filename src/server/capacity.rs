//! How many client threads this process can have. All servers of the process share one count and one capacity, because
//! the limits belong to the process.

use crate::sync::{AtomicUsize, OnceLock, Ordering, STACK};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;

/// Memory mappings of a thread that std starts: the stack, its guard, the alternative signal stack, its guard.
const MAPPINGS_PER_THREAD: u64 = 4;
/// The part of each limit that is left to the rest of the program, for its files, threads and allocators: a sixteenth, and
/// at least `SPARE`.
const SPARE_PART: u64 = 16;
const SPARE: u64 = 64;
/// The spare part of the memory mappings: a fifth, because each large buffer and message takes one.
const SPARE_MAPPINGS: u64 = 5;
/// The memory that a client can take beside its stack, in bytes: buffers, a message that is received and one that is sent, all
/// of default sizes. Counted, with the stack, against limits at which an allocation fails, because that aborts the process.
const MEMORY_PER_CLIENT: u64 = 4 << 20;
/// Twice the memory of an idle client, with its kernel stack and its socket, in bytes. Counted against the memory of the
/// machine and of its control groups. `MEMORY_PER_CLIENT` would allow too few clients there, because few clients use it.
const MEMORY_AT_REST: u64 = 64 << 10;
/// The same for a client without a thread. At rest it takes some 3.4 KiB of the process and 14.1 KiB of the kernel.
const MEMORY_WITHOUT_THREAD: u64 = 36 << 10;
/// The limits that only threads reach.
const OF_THREADS: [&str; 5] =
    ["vm.max_map_count", "kernel.threads-max", "kernel.pid_max", "RLIMIT_NPROC", "cgroup pids.max"];
/// The address space that glibc reserves for the arena of a thread, for up to 8 threads for each processor (mallopt(3),
/// `M_ARENA_MAX`). On 32-bit systems both are smaller.
const ARENA: u64 = if cfg!(target_pointer_width = "64") { 64 << 20 } else { 1 << 20 };
const ARENAS_PER_PROCESSOR: u64 = if cfg!(target_pointer_width = "64") { 8 } else { 2 };
/// The addresses of a process on a 32-bit system. The kernel keeps the fourth GiB.
const ADDRESSES_OF_32_BITS: u64 = 3 << 30;
const MEMORY_INFO: &str = "/proc/meminfo";
/// The value of a limit that cannot be read.
const UNKNOWN: u64 = 1 << 20;

/// How many clients a server can have at the same time, and which limit decides.
///
/// Displays as `capacity 13097 clients (limited by vm.max_map_count)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// How many clients the server can have at the same time.
    pub clients: usize,
    /// The limit that is reached first, by its usual name: `RLIMIT_NOFILE`, `vm.max_map_count`, `max_clients` and so on.
    pub limited_by: &'static str,
}

impl Capacity {
    /// Returns the capacity of the process for clients with this stack. With the default stack, the limits are read only in the
    /// first call.
    pub(crate) fn of_process(stack: usize) -> Self {
        static DEFAULT: OnceLock<Capacity> = OnceLock::new();
        let read = |stack| lowest(&limits(Some(stack)));
        if stack == STACK { *DEFAULT.get_or_init(|| read(STACK)) } else { read(stack) }
    }

    /// Returns the capacity of the process for clients without a thread each.
    pub(crate) fn without_threads() -> Self {
        static CAPACITY: OnceLock<Capacity> = OnceLock::new();
        *CAPACITY.get_or_init(|| lowest(&limits(None)))
    }

    /// Returns this capacity, or `clients` if that is lower.
    pub(crate) fn at_most(self, clients: usize) -> Self {
        if clients < self.clients { Self { clients, limited_by: "max_clients" } } else { self }
    }
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "capacity {} clients (limited by {})", self.clients, self.limited_by)
    }
}

/// A place for one client thread. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(());

/// The places that are taken, by all servers of this process. Relaxed, because it guards no other data.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Place {
    /// Takes a place in a process of this capacity. `None` if none is left.
    pub(crate) fn take(process: Capacity) -> Option<Self> {
        let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < process.clients).then_some(taken + 1)
        });
        taken.ok().map(|_| Self(()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A limit of the system, how much of it is in use, how much a client takes, and which part is spared.
struct Limit {
    name: &'static str,
    limit: u64,
    in_use: u64,
    per_client: u64,
    spare_part: u64,
}

impl Limit {
    fn new(name: &'static str, limit: u64, in_use: u64, per_client: u64) -> Self {
        Self { name, limit, in_use, per_client, spare_part: SPARE_PART }
    }

    fn clients(&self) -> u64 {
        let spare = (self.limit / self.spare_part).max(SPARE);
        self.limit.saturating_sub(self.in_use).saturating_sub(spare) / self.per_client
    }
}

fn lowest(limits: &[Limit]) -> Capacity {
    let lowest = limits.iter().min_by_key(|limit| limit.clients());
    let (count, name) = lowest.map_or((UNKNOWN, "nothing known"), |limit| (limit.clients(), limit.name));
    // At least one, so that a server with a very low limit still serves one client at a time.
    Capacity { clients: usize::try_from(count).unwrap_or(usize::MAX).max(1), limited_by: name }
}

/// Returns the limits for clients with this stack, or without a thread each.
fn limits(stack: Option<usize>) -> Vec<Limit> {
    let memory_per_client = MEMORY_PER_CLIENT.saturating_add(stack.unwrap_or(0) as u64);
    let at_rest = if stack.is_some() { MEMORY_AT_REST } else { MEMORY_WITHOUT_THREAD };
    let threads = count_entries("/proc/self/task");
    let mappings = fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count() as u64);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(UNKNOWN);
    let own = |name| kilobytes("/proc/self/status", name).unwrap_or(0);
    let resident = own("VmRSS:");
    let mut limits = vec![
        Limit::new("RLIMIT_NOFILE", descriptors, count_entries("/proc/self/fd"), 1),
        Limit {
            spare_part: SPARE_MAPPINGS,
            ..Limit::new(
                "vm.max_map_count",
                number("/proc/sys/vm/max_map_count"),
                mappings,
                MAPPINGS_PER_THREAD,
            )
        },
        Limit::new("kernel.threads-max", number("/proc/sys/kernel/threads-max"), threads, 1),
        Limit::new("kernel.pid_max", number("/proc/sys/kernel/pid_max"), threads, 1),
    ];
    let optional = [
        // It does not limit root, but the program can change its user later. The systems named here do not have it.
        #[cfg(not(any(target_os = "illumos", target_os = "solaris", target_os = "haiku")))]
        ("RLIMIT_NPROC", getrlimit(Resource::Nproc).current, threads, 1),
        ("RLIMIT_DATA", getrlimit(Resource::Data).current, own("VmData:"), memory_per_client),
        (
            "vm.overcommit_memory",
            commit_limit(),
            kilobytes(MEMORY_INFO, "Committed_AS:").unwrap_or(0),
            memory_per_client,
        ),
        ("cgroup pids.max", cgroup("pids", ["pids.max"; 2]), threads, 1),
        ("cgroup memory.max", cgroup("memory", ["memory.limit_in_bytes", "memory.max"]), resident, at_rest),
        ("MemTotal", kilobytes(MEMORY_INFO, "MemTotal:"), resident, at_rest),
    ];
    for (name, limit, in_use, per_client) in optional {
        limits.extend(limit.map(|limit| Limit::new(name, limit, in_use, per_client)));
    }
    let addresses = [
        // OpenBSD has no such limit.
        #[cfg(not(target_os = "openbsd"))]
        ("RLIMIT_AS", getrlimit(Resource::As).current),
        ("32-bit addresses", cfg!(target_pointer_width = "32").then_some(ADDRESSES_OF_32_BITS)),
    ];
    for (name, limit) in addresses {
        let limit =
            limit.map(|limit| address_space(name, limit, own("VmSize:"), arenas(), memory_per_client));
        limits.extend(limit);
    }
    if stack.is_none() {
        limits.retain(|limit| !OF_THREADS.contains(&limit.name));
    }
    limits
}

/// Returns how much memory the machine promises to all processes, if it promises no more than it has
/// (`vm.overcommit_memory` is 2). Then unused stacks count, too.
fn commit_limit() -> Option<u64> {
    let is_strict = number("/proc/sys/vm/overcommit_memory") == 2;
    kilobytes(MEMORY_INFO, "CommitLimit:").filter(|_| is_strict)
}

/// The threads of the first clients reserve an arena each. The others share those arenas.
fn address_space(name: &'static str, limit: u64, in_use: u64, arenas: u64, memory_per_client: u64) -> Limit {
    let first = memory_per_client.saturating_add(ARENA);
    let room = (limit - limit / SPARE_PART).saturating_sub(in_use);
    if room / first < arenas {
        Limit::new(name, limit, in_use, first)
    } else {
        Limit::new(name, limit, in_use + arenas * ARENA, memory_per_client)
    }
}

fn arenas() -> u64 {
    let set = std::env::var("MALLOC_ARENA_MAX").ok().and_then(|arenas| arenas.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, |number| number.get() as u64);
    set.unwrap_or(ARENAS_PER_PROCESSOR * processors)
}

/// Returns a number that a file of /proc gives in kB, in bytes.
fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))?;
    value.parse().ok().map(|kilobytes: u64| kilobytes << 10)
}

/// Returns the lowest limit of a controller for the control group of this process and the groups above it. `files` are the
/// names of the limit in version 1 and 2.
fn cgroup(controller: &str, files: [&str; 2]) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut lowest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let root = Path::new("/sys/fs/cgroup");
        let (root, file) = match controllers {
            "" => (root.to_owned(), files[1]),
            _ if controllers.split(',').any(|name| name == controller) => (root.join(controller), files[0]),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = fs::read_to_string(root.join(group).join(file));
            // Without a limit the file has "max" in version 2, and a huge number in version 1.
            if let Some(limit) = limit.ok().and_then(|limit| limit.trim().parse().ok()) {
                lowest = Some(lowest.map_or(limit, |lowest: u64| lowest.min(limit)));
            }
        }
    }
    lowest
}

fn number(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|number| number.trim().parse().ok()).unwrap_or(UNKNOWN)
}

fn count_entries(path: &str) -> u64 {
    fs::read_dir(path).map_or(0, |entries| entries.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_is_reached_first_is_named() {
        let limit = |name, limit, per_client| Limit::new(name, limit, 10, per_client);
        let limits = [limit("descriptors", 1024, 1), limit("mappings", 65_530, 4), limit("few", 200, 1)];
        assert_eq!(lowest(&limits).to_string(), "capacity 126 clients (limited by few)");
        assert_eq!(lowest(&limits[..2]).limited_by, "descriptors");
        assert_eq!(lowest(&[limit("nothing left", 5, 1)]).clients, 1);
    }

    #[test]
    fn the_arenas_of_the_allocator_take_address_space() {
        let limit = |mib: u64| address_space("addresses", mib << 20, 0, 16, MEMORY_PER_CLIENT);
        let clients = |mib: u64| lowest(&[limit(mib)]).clients;
        assert_eq!(clients(16), 1);
        assert_eq!(clients(680), 9);
        // 16 GiB without a sixteenth, and 16 arenas.
        assert_eq!(clients(16 << 10), (15 * 1024 - 16 * 64) / 4);
        assert!((1..2000).all(|mib| clients(mib) <= clients(mib + 1)), "more memory, fewer clients");
    }

    #[test]
    fn a_larger_stack_takes_more_address_space() {
        let clients = |stack: u64| {
            lowest(&[address_space("addresses", 16 << 30, 0, 16, MEMORY_PER_CLIENT + stack)]).clients
        };
        assert_eq!(clients(2 << 20), (15 * 1024 - 16 * 64) / 6);
        assert_eq!(clients(60 << 20), (15 * 1024 - 16 * 64) / 64);
        assert!(Capacity::of_process(usize::MAX / 2).clients >= 1);
    }

    #[test]
    fn this_machine_has_a_capacity() {
        let capacity = Capacity::of_process(STACK);
        assert!(capacity.clients >= 1);
        assert!(Capacity::without_threads().clients >= capacity.clients);
        assert_eq!(capacity.at_most(1).clients, 1);
    }
}
