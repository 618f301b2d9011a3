//! Runs the targets without a fuzzer: on its seeds, and on seeds with a few changed bytes.

use super::{close_payload, decoder, forwarded, proxy, request_head, response_head};
use crate::protocol::noise::Noise;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Returns the seeds of a target. There are none only in a package from `cargo package`, which does not contain them.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join("Cargo.toml.orig").exists() {
        return Vec::new();
    }
    let entries = fs::read_dir(root.join("fuzz/seeds").join(target)).expect("a folder of seeds");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!paths.is_empty(), "{target} has no seed");
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

type FuzzTarget = fn(&[u8]);

#[test]
fn seeds_and_their_mutations_break_no_promise() {
    let targets: &[(&str, FuzzTarget)] = &[
        #[cfg(all(feature = "tls", not(model)))]
        ("tls_handshake", super::tls_handshake),
        #[cfg(all(feature = "tls", not(model)))]
        ("tls_records", super::tls_records),
        #[cfg(all(feature = "deflate", not(model)))]
        ("extensions", super::extensions),
        #[cfg(all(feature = "deflate", not(model)))]
        ("unpack", super::unpack),
        #[cfg(all(feature = "deflate", not(model)))]
        ("pack", super::pack),
        ("decoder", decoder),
        ("request_head", request_head),
        ("response_head", response_head),
        ("forwarded", forwarded),
        ("proxy", proxy),
        ("close_payload", close_payload),
        ("envelope", super::envelope),
    ];
    for &(name, target) in targets {
        for (at, seed) in seeds(name).iter().enumerate() {
            let mut noise = Noise::new(at as u64);
            for change in 0..30 {
                let mut input = seed.clone();
                for _ in 0..change % 5 {
                    change_one(&mut input, &mut noise);
                }
                if catch_unwind(|| target(&input)).is_err() {
                    panic!("{name}: {:?}\n{input:02x?}", input.escape_ascii().to_string());
                }
            }
        }
    }
}

fn change_one(input: &mut Vec<u8>, noise: &mut Noise) {
    let at = noise.below(input.len());
    let byte = noise.next().to_le_bytes()[3];
    match noise.below(5) {
        0 if !input.is_empty() => input[at] ^= 1 << noise.below(8),
        1 if !input.is_empty() => drop(input.remove(at)),
        2 => input.truncate(at),
        3 => {
            let again = input[at..input.len().min(at + 8)].to_vec();
            input.splice(at..at, again);
        }
        _ => input.insert(at, byte),
    }
}
