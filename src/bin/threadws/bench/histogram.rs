//! A histogram of durations with a precision of three per cent, in 15 KiB.

use std::time::Duration;

/// Buckets between two powers of two. The limits of a bucket differ by 1/32 at most.
const SPLIT: u64 = 1 << SPLIT_BITS;
const SPLIT_BITS: u32 = 5;
/// `SPLIT` buckets for the numbers below `SPLIT`, and as many for each power of two from there on.
const BUCKETS: usize = (1 << SPLIT_BITS) * (64 - SPLIT_BITS as usize + 1);

#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: Duration::ZERO }
    }

    #[inline]
    pub(crate) fn add(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// Returns a duration that this many in a million did not exceed.
    pub(crate) fn quantile(&self, millionths: u64) -> Duration {
        let wanted = (u128::from(self.count) * u128::from(millionths)).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted {
                // The end of the bucket, so that the result is never too small. The last bucket ends at the maximum.
                return Duration::from_nanos(start(at + 1)).min(self.max);
            }
        }
        self.max
    }

    /// Counts the durations from `from` to less than `to`, with the precision of the buckets.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> u64 {
        let at = |duration: Duration| bucket(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        self.counts[at(from)..at(to)].iter().sum()
    }
}

/// Returns the bucket of a number: one bucket per number below `SPLIT`, then `SPLIT` buckets for each power of two.
fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    let bucket = if power < SPLIT_BITS {
        nanos
    } else {
        let above = power - SPLIT_BITS;
        (u64::from(above) + 1) * SPLIT + (nanos >> above) - SPLIT
    };
    usize::try_from(bucket).unwrap_or(BUCKETS - 1).min(BUCKETS - 1)
}

/// Returns the smallest number in a bucket.
fn start(bucket: usize) -> u64 {
    let bucket = bucket as u128;
    let split = u128::from(SPLIT);
    let nanos = if bucket < split { bucket } else { (split + bucket % split) << (bucket / split - 1) };
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_a_bucket_that_is_narrow() {
        let mut nanos = 0_u64;
        let mut before = 0;
        while nanos < 1 << 60 {
            let at = bucket(nanos);
            assert!(start(at) <= nanos && nanos < start(at + 1), "{nanos}: {at}");
            assert!(start(at + 1) - start(at) <= 1 + nanos / SPLIT, "{nanos}");
            assert!(at >= before, "{nanos}");
            before = at;
            nanos += 1 + nanos / 50;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_as_precise_as_the_buckets() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(500_000), Duration::ZERO);
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (millionths, micros) in
            [(1, 1), (500_000, 500), (990_000, 990), (999_000, 999), (1_000_000, 1000)]
        {
            let expected = Duration::from_micros(micros);
            let quantile = histogram.quantile(millionths);
            assert!(quantile >= expected && quantile <= expected * 33 / 32, "{millionths}: {quantile:?}");
        }
        let all = histogram.clone();
        histogram.merge(&all);
        assert_eq!((histogram.count(), histogram.max()), (2000, Duration::from_millis(1)));
        assert_eq!(histogram.between(Duration::ZERO, Duration::from_secs(1)), 2000);
        assert_eq!(histogram.between(Duration::from_secs(1), Duration::from_secs(2)), 0);
    }
}
