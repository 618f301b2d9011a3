//! The report of a load: tables for people, JSON for programs.

use super::histogram::Histogram;
use crate::args::bench::BenchOptions;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The most rows of the histogram.
const MAX_ROWS: u32 = 12;
/// The longest bar, in characters.
const MAX_BAR: u64 = 40;

/// The result of a load.
#[derive(Debug)]
pub(super) struct LoadReport<'a> {
    pub(super) options: &'a BenchOptions,
    pub(super) address: SocketAddr,
    pub(super) took: Duration,
    pub(super) interrupted: bool,
    pub(super) latency: Histogram,
}

impl LoadReport<'_> {
    /// Returns the messages per second.
    fn rate(&self) -> f64 {
        self.latency.count() as f64 / self.took.as_secs_f64()
    }

    fn quantiles(&self) -> [(&'static str, Duration); 5] {
        [
            ("p50", self.latency.quantile(500_000)),
            ("p90", self.latency.quantile(900_000)),
            ("p99", self.latency.quantile(990_000)),
            ("p99.9", self.latency.quantile(999_000)),
            ("max", self.latency.max()),
        ]
    }

    pub(super) fn json(&self) -> String {
        let BenchOptions { clients, size, in_flight, binary, .. } = self.options;
        let micros = |duration: Duration| duration.as_nanos() as f64 / 1e3;
        let latency: Vec<_> =
            self.quantiles().map(|(name, value)| format!("\"{name}\":{:.1}", micros(value))).into();
        format!(
            "{{\"target\":\"{}\",\"clients\":{clients},\"size\":{size},\"in_flight\":{in_flight},\"binary\":{binary},\
             \"seconds\":{:.3},\"interrupted\":{},\"messages\":{},\"messages_per_second\":{:.1},\
             \"latency_us\":{{{}}}}}\n",
            self.address,
            self.took.as_secs_f64(),
            self.interrupted,
            self.latency.count(),
            self.rate(),
            latency.join(","),
        )
    }

    pub(super) fn tables(&self) -> String {
        let BenchOptions { clients, size, in_flight, binary, .. } = self.options;
        let kind = if *binary { "binary" } else { "text" };
        let mut text = format!(
            "{}: {clients} clients, {size} bytes of {kind}, {in_flight} in flight, {:.1} s{}\n\n",
            self.address,
            self.took.as_secs_f64(),
            if self.interrupted { ", interrupted" } else { "" },
        );
        let rate = self.rate();
        let mebibytes = rate * *size as f64 / f64::from(1 << 20);
        // Writing to a `String` never fails, here and below.
        let _ = writeln!(text, "messages/s  {}", grouped(rate));
        let _ = writeln!(text, "MiB/s       {mebibytes:.1} each way\n");
        for (name, value) in self.quantiles() {
            let _ = writeln!(text, "{name:<10}  {:>9}", shown(value));
        }
        let _ = writeln!(text);
        for (from, to, count) in self.rows() {
            let share = count as f64 / self.latency.count() as f64;
            let bar = "#".repeat(usize::try_from(count * MAX_BAR / self.latency.count()).unwrap_or(0));
            let from = if from.is_zero() { "up".to_owned() } else { shown(from) };
            let _ = writeln!(text, "{from:>9} to {:>9}  {:5.1} %  {bar}", shown(to), share * 100.0);
        }
        text
    }

    /// Counts the messages between powers of two, up to the maximum. The first row has all shorter times, too.
    fn rows(&self) -> Vec<(Duration, Duration, u64)> {
        let power = |duration: Duration| duration.as_nanos().max(1).ilog2();
        let (first, last) = (power(self.latency.quantile(1_000)), power(self.latency.max()));
        let first = first.max(last.saturating_sub(MAX_ROWS - 1));
        let nanos = |power: u32| Duration::from_nanos(1_u64.checked_shl(power).unwrap_or(u64::MAX));
        (first..=last)
            .map(|power| {
                let from = if power == first { Duration::ZERO } else { nanos(power) };
                (from, nanos(power + 1), self.latency.between(from, nanos(power + 1)))
            })
            .collect()
    }
}

/// Shows a number in groups of three digits.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Shows a duration with three digits.
fn shown(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        ..1e6 => (nanos / 1e3, "µs"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let decimals = if value >= 100.0 || unit == "ns" {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_numbers_are_grouped() {
        for (nanos, text) in
            [(0, "0 ns"), (999, "999 ns"), (1_500, "1.50 µs"), (123_456, "123 µs"), (2_000_000_000, "2.00 s")]
        {
            assert_eq!(shown(Duration::from_nanos(nanos)), text);
        }
        for (value, text) in [(0.0, "0"), (999.0, "999"), (1000.0, "1 000"), (1_234_567.4, "1 234 567")] {
            assert_eq!(grouped(value), text);
        }
    }
}
