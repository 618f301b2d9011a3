//! Token buckets, one for each client address whose bucket is not full.

use super::AddressKey;
use crate::error::{Error, Result};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, now};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many addresses without connections are remembered: about 10 MB.
const MAX_REMEMBERED: usize = 64 * 1024;
/// The smallest table that is searched for buckets that are full again.
const FEW: usize = 1024;
/// The longest period is a year, so that sums of nanoseconds do not overflow.
const MAX_PERIOD: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A number of tokens for a period. They can be taken at once; each one returns after its share of the period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) limit: u32,
    pub(crate) per: Duration,
    /// The time after which one token returns, in nanoseconds.
    cost: u64,
}

impl Rate {
    /// Returns an error for a rate that cannot work. `name` is the name of the setting.
    pub(crate) fn new(name: &str, limit: u32, per: Duration) -> Result<Self> {
        if limit == 0 {
            return Err(Error::invalid(format!("{name} allows 0")));
        }
        if per > MAX_PERIOD {
            return Err(Error::invalid(format!("{name} counts over more than a year")));
        }
        match nanos(per) / u64::from(limit) {
            0 => Err(Error::invalid(format!("{name} allows more than one in a nanosecond"))),
            cost => Ok(Self { limit, per, cost }),
        }
    }
}

/// The tokens of one address.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    epoch: Instant,
    /// The time at which the bucket will be full again, in nanoseconds after `epoch`. Relaxed, because it guards no other
    /// data.
    full_at: AtomicU64,
}

impl Bucket {
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one token, or returns the time until there is one.
    ///
    /// Each attempt reads the clock after the bucket. Otherwise a thread could read the clock first, lose the race for the
    /// bucket, and find it emptier than it is.
    pub(crate) fn take(&self, clock: impl Fn() -> Instant) -> Result<(), Duration> {
        // A whole number of tokens, so that exactly `limit` come at once.
        let all = self.rate.cost * u64::from(self.rate.limit);
        let mut wait = 0;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let now = nanos(clock().saturating_duration_since(self.epoch));
            let after = full_at.max(now) + self.rate.cost;
            wait = after.saturating_sub(now + all);
            (wait == 0).then_some(after)
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(wait))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanos(now.saturating_duration_since(self.epoch))
    }
}

/// The buckets of the addresses that have taken tokens lately.
///
/// A full bucket is removed, because a new bucket is full, too. A peer that uses ever new addresses could still fill the
/// table. Then the eighth of the buckets that are nearest to full are removed, so the addresses that have taken most stay.
/// Buckets of addresses with open connections are kept. There are no more of them than connections.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: Rate,
    epoch: Instant,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    buckets: BTreeMap<AddressKey, Arc<Bucket>>,
    /// The size at which full buckets are searched for. It grows with what the search leaves, so that a search costs little
    /// for each new entry.
    search_at: usize,
}

impl Buckets {
    pub(crate) fn new(rate: Rate) -> Self {
        let table = Table { buckets: BTreeMap::new(), search_at: FEW };
        Self { rate, epoch: now(), table: Mutex::new(table) }
    }

    /// Returns the bucket of this address. The caller keeps it as long as the address has connections.
    pub(crate) fn of(&self, client: IpAddr, now: Instant) -> Arc<Bucket> {
        let key = AddressKey::from(client);
        let mut table = self.table.lock();
        if let Some(bucket) = table.buckets.get(&key) {
            return Arc::clone(bucket);
        }
        if table.buckets.len() >= table.search_at {
            table.forget(now);
        }
        let bucket = Arc::new(Bucket { rate: self.rate, epoch: self.epoch, full_at: AtomicU64::new(0) });
        table.buckets.insert(key, Arc::clone(&bucket));
        bucket
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        // Clones are only made under the lock of the table, so a bucket that is unused now stays unused.
        let unused = |bucket: &Arc<Bucket>| Arc::strong_count(bucket) == 1;
        self.buckets.retain(|_, bucket| !unused(bucket) || !bucket.is_full(now));
        if self.buckets.len() >= MAX_REMEMBERED {
            let remembered = self.buckets.iter().filter(|(_, bucket)| unused(bucket));
            let mut nearest: Vec<(u64, AddressKey)> =
                remembered.map(|(key, bucket)| (bucket.full_at.load(Ordering::Relaxed), *key)).collect();
            nearest.sort_unstable();
            for (_, key) in nearest.into_iter().take(MAX_REMEMBERED / 8) {
                self.buckets.remove(&key);
            }
        }
        let left = self.buckets.len();
        self.search_at = (left * 2).clamp(FEW, MAX_REMEMBERED.max(left + left / 8 + 1));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(limit: u32, per: Duration) -> Buckets {
        Buckets::new(Rate::new("rate", limit, per).expect("a rate"))
    }

    fn number(count: usize) -> u32 {
        count.try_into().expect("it fits")
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn the_limit_comes_at_once_and_each_token_after_its_share() {
        let second = Duration::from_secs(1);
        let rates =
            [(1, second), (3, second), (7, second * 10), (50_000, second), (3, Duration::from_nanos(10))];
        for (limit, per) in rates {
            let buckets = buckets(limit, per);
            let start = buckets.epoch + Duration::from_secs(5);
            let bucket = buckets.of(address(1), start);
            for n in 0..limit {
                assert_eq!(bucket.take(|| start), Ok(()), "{n} of {limit}");
            }
            let wait = bucket.take(|| start).expect_err("one too many");
            assert!(wait <= per / limit && wait > Duration::ZERO, "{wait:?}");
            assert!(bucket.take(|| start + wait - Duration::from_nanos(1)).is_err());
            assert_eq!(bucket.take(|| start + wait), Ok(()));
            assert!(bucket.take(|| start + wait).is_err(), "only one has come back");
            let later = start + wait + per * 100;
            for n in 0..limit {
                assert_eq!(bucket.take(|| later), Ok(()), "{n} of {limit}, full again and no fuller");
            }
            assert!(bucket.take(|| later).is_err());
        }
    }

    #[test]
    fn two_threads_at_once_can_take_the_last_two_tokens() {
        let buckets = buckets(2, Duration::from_secs(3600));
        let all = Vec::from_iter((0..20_000).map(|n| buckets.of(address(n), now())));
        let here = AtomicU64::new(0);
        let take_all = || {
            let refused = all.iter().zip((2..).step_by(2)).filter(|(bucket, both)| {
                here.fetch_add(1, Ordering::Relaxed);
                while here.load(Ordering::Relaxed) < *both {
                    std::thread::yield_now();
                }
                bucket.take(now).is_err()
            });
            refused.count()
        };
        let refused = std::thread::scope(|scope| {
            [(); 2].map(|()| scope.spawn(take_all)).map(|thread| thread.join().expect("it counts"))
        });
        assert_eq!(refused, [0, 0]);
    }

    #[test]
    fn one_address_has_one_bucket_and_another_its_own() {
        let buckets = buckets(1, Duration::from_secs(60));
        let now = buckets.epoch;
        assert_eq!(buckets.of(address(1), now).take(|| now), Ok(()));
        assert!(buckets.of(address(1), now).take(|| now).is_err());
        assert_eq!(buckets.of(address(2), now).take(|| now), Ok(()));
    }

    #[test]
    fn full_buckets_are_forgotten_and_those_in_use_are_kept() {
        let buckets = buckets(2, Duration::from_secs(60));
        let start = buckets.epoch;
        let used = buckets.of(address(0), start);
        for number in 1..number(FEW) {
            buckets.of(address(number), start).take(|| start).expect("the first");
        }
        assert_eq!(buckets.table.lock().buckets.len(), FEW);
        let later = start + Duration::from_secs(31);
        drop(buckets.of(address(u32::MAX), later));
        assert_eq!(buckets.table.lock().buckets.len(), 2, "the one in use and the new one");
        assert!(Arc::ptr_eq(&used, &buckets.of(address(0), later)));
    }

    #[test]
    fn ever_new_addresses_neither_grow_the_table_nor_free_the_greedy() {
        let buckets = buckets(2, Duration::from_secs(3600));
        let now = buckets.epoch;
        let greedy = buckets.of(address(0), now);
        assert_eq!((greedy.take(|| now), greedy.take(|| now)), (Ok(()), Ok(())));
        drop(greedy);
        for number in 1..number(3 * MAX_REMEMBERED) {
            assert_eq!(buckets.of(address(number), now).take(|| now), Ok(()));
            assert!(buckets.table.lock().buckets.len() <= MAX_REMEMBERED);
        }
        assert!(buckets.of(address(0), now).take(|| now).is_err(), "it was not forgotten");
    }

    #[test]
    fn a_rate_that_cannot_work_is_refused_by_name() {
        let second = Duration::from_secs(1);
        for (limit, per) in [(0, second), (1, Duration::ZERO), (u32::MAX, second), (1, Duration::MAX)] {
            let error = Rate::new("message_rate", limit, per).expect_err("it cannot work");
            assert!(error.to_string().contains("message_rate"), "{error}");
        }
    }
}
