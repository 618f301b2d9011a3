//! [`DeflatePool`]: the compressors and decompressors of a server, or of all client connections of the process.
//!
//! A compressor has 165 KB and a decompressor 56 KB, so a connection has one only while it works on a message. Each starts anew
//! with each message, so it does not matter which connection had it before. Their locks are held for a few nanoseconds, never
//! while anything is compressed.

use crate::protocol::deflate::{Compressor, Decompressor};
use crate::sync::{AtomicUsize, Mutex, Ordering, processors};

/// How many compressors may work at the same time, for each processor. More would only take memory.
const COMPRESSORS_PER_PROCESSOR: usize = 4;

/// The compressors and decompressors that no connection uses at this moment.
#[derive(Debug)]
pub(crate) struct DeflatePool {
    /// The number of each that are kept. More are dropped.
    kept: usize,
    /// The number of compressors that are used now. Relaxed, because it guards nothing.
    working: AtomicUsize,
    compressors: Mutex<Vec<Compressor>>,
    decompressors: Mutex<Vec<Decompressor>>,
}

impl DeflatePool {
    pub(crate) fn new() -> Self {
        Self {
            kept: processors(),
            working: AtomicUsize::new(0),
            compressors: Mutex::default(),
            decompressors: Mutex::default(),
        }
    }

    /// Takes a compressor. Returns `None` if too many are used already: then the message is sent without compression, because
    /// no sender waits for a compressor.
    pub(crate) fn take_compressor(&self, level: u8, bits: u8) -> Option<Compressor> {
        if self.working.fetch_add(1, Ordering::Relaxed) >= self.kept * COMPRESSORS_PER_PROCESSOR {
            self.working.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let kept = {
            let mut compressors = self.compressors.lock();
            let place = compressors.iter().rposition(|compressor| compressor.has(level, bits));
            place.map(|place| compressors.swap_remove(place))
        };
        // Made outside of the lock.
        let compressor = kept.or_else(|| Compressor::new(level, bits));
        if compressor.is_none() {
            self.working.fetch_sub(1, Ordering::Relaxed);
        }
        compressor
    }

    pub(crate) fn put_compressor(&self, compressor: Compressor) {
        self.working.fetch_sub(1, Ordering::Relaxed);
        put(&self.compressors, compressor, self.kept);
    }

    /// Takes a decompressor, or makes one. Always returns one, unless the library is built without the feature `deflate`.
    pub(crate) fn take_decompressor(&self) -> Option<Decompressor> {
        let kept = self.decompressors.lock().pop();
        kept.or_else(Decompressor::new)
    }

    pub(crate) fn put_decompressor(&self, decompressor: Decompressor) {
        put(&self.decompressors, decompressor, self.kept);
    }
}

/// Adds a value to those that are kept. If there are too many then, the oldest is dropped, outside of the lock.
fn put<T>(place: &Mutex<Vec<T>>, value: T, kept: usize) {
    let mut values = place.lock();
    values.push(value);
    let surplus = (values.len() > kept).then(|| values.remove(0));
    drop(values);
    drop(surplus);
}

#[cfg(all(test, feature = "deflate", not(model)))]
mod tests {
    use super::*;

    /// The states of 500 connections that end at the same time are not kept.
    #[test]
    fn a_pool_keeps_one_of_each_for_a_processor() {
        let pool = DeflatePool::new();
        let most = pool.kept * COMPRESSORS_PER_PROCESSOR;
        for _ in 0..3 {
            let working: Vec<_> = (0..most).map_while(|_| pool.take_compressor(6, 12)).collect();
            assert_eq!(working.len(), most);
            assert!(pool.take_compressor(6, 12).is_none(), "one more works");
            working.into_iter().for_each(|compressor| pool.put_compressor(compressor));
            let lent: Vec<_> = (0..500).map_while(|_| pool.take_decompressor()).collect();
            assert_eq!(lent.len(), 500);
            lent.into_iter().for_each(|decompressor| pool.put_decompressor(decompressor));
            assert_eq!(pool.compressors.lock().len(), pool.kept);
            assert_eq!(pool.decompressors.lock().len(), pool.kept);
        }
        assert!(pool.take_compressor(6, 9).is_some_and(|other| other.has(6, 9)), "other settings");
    }
}
