//! Writes the table and the plots.

use crate::Row;
use crate::load::{Load, Outcome};
use crate::peers::Peer;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A figure of a peer under a load.
#[derive(Clone, Copy)]
enum Figure {
    Rate,
    Cost,
    P99,
    Bytes,
}

/// Returns the line that shows a run in the progress.
pub fn outcome(load: Load, outcome: &Outcome) -> String {
    if load.is_memory() {
        return format!("{:.1} KiB each", outcome.cost);
    }
    let Outcome { rate, cost, p50, p99, .. } = outcome;
    format!("{}/s, {} µs of CPU each, p50 {p50} µs, p99 {p99} µs", count(*rate), short(*cost))
}

pub fn write(
    out: &Path,
    rows: &[Row],
    reference: Peer,
    cores: &str,
    command: &str,
    took: Duration,
) -> Result<(), Box<dyn Error>> {
    std::fs::write(out.join("results.md"), table(rows, reference, cores, command, took)?)?;
    let name = reference.name();
    let rates = format!("Messages per second, relative to {name}: longer is better");
    std::fs::write(out.join("rates.svg"), plot(rows, reference, Figure::Rate, &rates))?;
    let costs =
        format!("Server CPU per message, or memory per client, relative to {name}: shorter is better");
    std::fs::write(out.join("costs.svg"), plot(rows, reference, Figure::Cost, &costs))?;
    std::fs::write(out.join("runs.csv"), runs(rows))?;
    Ok(())
}

/// Returns a line for every run, which shows the spread.
fn runs(rows: &[Row]) -> String {
    let mut csv = "load;peer;per second;CPU µs or KiB each;p50 µs;p99 µs;bytes\n".to_owned();
    for row in rows {
        for (peer, outcomes) in &row.runs {
            for Outcome { rate, cost, p50, p99, bytes } in outcomes {
                let (load, peer) = (row.load.name(), peer.name());
                _ = writeln!(csv, "{load};{peer};{rate:.0};{cost:.3};{p50};{p99};{bytes:.1}");
            }
        }
    }
    csv
}

fn table(
    rows: &[Row],
    reference: Peer,
    cores: &str,
    command: &str,
    took: Duration,
) -> Result<String, Box<dyn Error>> {
    let peers: Vec<Peer> =
        Peer::ALL.into_iter().filter(|peer| rows.iter().any(|row| row.of(*peer).is_some())).collect();
    let mut text = format!(
        "# threadws and its peers\n\n{}, {} minutes and {} seconds. {}; {cores}.\n\n    {command}\n\n",
        output_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        took.as_secs() / 60,
        took.as_secs() % 60,
        machine(),
    );
    let rounds = rows.iter().flat_map(|row| &row.runs).map(|(_, runs)| runs.len());
    let (least, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
    let rounds = if least == most { most.to_string() } else { format!("{least} to {most}") };
    _ = writeln!(
        text,
        "Medians of {rounds} interleaved runs. In brackets: relative to {} in the same runs. The machine may be \
         shared, so **compare only the ratios within one table**, and ignore differences of a few per cent.\n",
        reference.name(),
    );
    for peer in &peers {
        _ = writeln!(text, "- **{}**: {}", peer.name(), peer.what());
    }
    for (figure, title) in [
        (Figure::Rate, "Messages, deliveries or handshakes per second: more is better"),
        (Figure::Cost, "Server CPU in µs for each of them, or KiB of memory per client: less is better"),
        (Figure::P99, "Round trip in µs, 99th percentile: less is better"),
        (Figure::Bytes, "Bytes of an answer on the wire: less is better"),
    ] {
        _ = writeln!(text, "\n## {title}\n");
        let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
        _ = writeln!(text, "| | {} |\n|---|{}", names.join(" | "), "--:|".repeat(peers.len()));
        for row in rows.iter().filter(|row| matches!(figure, Figure::Cost) || !row.load.is_memory()) {
            let cells: Vec<_> = peers.iter().map(|peer| row.cell(*peer, reference, figure)).collect();
            _ = writeln!(text, "| {} | {} |", row.load.name(), cells.join(" | "));
        }
    }
    Ok(text)
}

impl Row {
    fn of(&self, peer: Peer) -> Option<&[Outcome]> {
        let (_, runs) = self.runs.iter().find(|(one, runs)| *one == peer && !runs.is_empty())?;
        Some(runs)
    }

    fn median(&self, peer: Peer, figure: Figure) -> Option<f64> {
        let mut values: Vec<f64> = self.of(peer)?.iter().map(|run| figure.of(run)).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 })
    }

    /// Returns the median relative to the reference's.
    fn ratio(&self, peer: Peer, reference: Peer, figure: Figure) -> Option<f64> {
        Some(self.median(peer, figure)? / self.median(reference, figure)?)
    }

    fn cell(&self, peer: Peer, reference: Peer, figure: Figure) -> String {
        let Some(value) = self.median(peer, figure) else { return "–".to_owned() };
        let value = figure.show(value);
        match self.ratio(peer, reference, figure) {
            Some(ratio) if peer != reference => format!("{value} ({})", short(ratio)),
            _ => value,
        }
    }
}

impl Figure {
    fn of(self, run: &Outcome) -> f64 {
        match self {
            Self::Rate => run.rate,
            Self::Cost => run.cost,
            Self::P99 => run.p99 as f64,
            Self::Bytes => run.bytes,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Rate | Self::P99 | Self::Bytes => count(value),
            Self::Cost => short(value),
        }
    }
}

/// Shows a number with three digits.
fn short(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => count(value),
    }
}

fn count(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.1}"),
        ..10_000.0 => format!("{value:.0}"),
        ..10_000_000.0 => format!("{:.0}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6),
    }
}

/// Runs a program and returns its output.
fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{}, {cores} cores, Linux {}, {}; load average {}",
        model.map_or("unknown processor", |(_, model)| model),
        output_of("uname", &["-r"]),
        output_of("rustc", &["--version"]),
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    )
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 150.0;
/// The length of the reference's bar.
const UNIT: f64 = 270.0;
/// The longest bar, relative to the reference's. A longer one is cut, and its figure is right.
const LONGEST: f64 = 2.0;
const BAR: f64 = 16.0;

/// Returns a plot with a group of bars for each load. The colours differ on white and on black. Without colours, the order
/// of the bars identifies the peers.
fn plot(rows: &[Row], reference: Peer, figure: Figure, title: &str) -> String {
    let mut y = 58.0;
    let mut body = String::new();
    for row in rows.iter().filter(|row| matches!(figure, Figure::Cost) || !row.load.is_memory()) {
        let bars: Vec<_> = row
            .runs
            .iter()
            .filter_map(|(peer, _)| Some((*peer, row.ratio(*peer, reference, figure)?)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        _ = writeln!(body, r#"<text class="load" x="10" y="{}">{}</text>"#, y + 12.0, row.load.name());
        y += 20.0;
        let top = y;
        // Written after the line of the reference, so that the text is above it.
        let mut words = String::new();
        for (peer, ratio) in bars {
            let long = ratio.min(LONGEST) * UNIT;
            let fill = match peer {
                Peer::Threadws => "#2f81d6",
                Peer::ThreadwsOwned | Peer::ThreadwsEvents => "#7fb2e5",
                Peer::Floor | Peer::EventFloor => "#8b949e",
                Peer::Naive | Peer::TokioWebsockets => "#d9822b",
                Peer::Tokio => "#c0504d",
                Peer::Node => "#5a9e57",
                Peer::ThreadwsTls | Peer::ThreadwsDeflate => "#7fb2e5",
                Peer::TokioTls | Peer::YawcDeflate => "#c0504d",
                Peer::NodeTls | Peer::NodeDeflate => "#5a9e57",
                Peer::PythonTls | Peer::PythonDeflate => "#d9822b",
                Peer::ThreadwsTakeover => "#b8d4f0",
                Peer::ThreadwsEventsDeflate => "#6f9fbf",
            };
            let unit = match figure {
                Figure::Rate => "/s",
                _ if row.load.is_memory() => " KiB",
                _ => " µs",
            };
            let value = row.median(peer, figure).map_or_else(String::new, |value| figure.show(value));
            let cut = if ratio > LONGEST { " »" } else { "" };
            _ = writeln!(
                body,
                r#"<rect x="{LEFT}" y="{y}" width="{long:.1}" height="{}" fill="{fill}"/>"#,
                BAR - 3.0
            );
            _ = writeln!(
                words,
                r#"<text x="{}" y="{}" text-anchor="end">{}</text><text class="value" x="{:.1}" y="{}">{cut} {} · {value}{unit}</text>"#,
                LEFT - 6.0,
                y + 11.0,
                peer.name(),
                LEFT + long + 4.0,
                y + 11.0,
                short(ratio),
            );
            y += BAR;
        }
        let x = LEFT + UNIT;
        _ = writeln!(body, r#"<line x1="{x}" x2="{x}" y1="{top}" y2="{}"/>"#, y - 3.0);
        body.push_str(&words);
        y += 12.0;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" font-family="system-ui, sans-serif" font-size="12">
<style>
text {{ fill: #1f2328 }} .load {{ font-weight: 600 }} .note {{ fill: #6e7781 }} line {{ stroke: #6e7781; stroke-dasharray: 3 3 }}
.value {{ stroke: #fff; stroke-width: 4px; paint-order: stroke }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #d1d7e0 }} .value {{ stroke: #0d1117 }} .note {{ fill: #9198a1 }} line {{ stroke: #9198a1 }} }}
</style>
<text x="10" y="22" font-size="16" font-weight="600">{title}</text>
<text class="note" x="10" y="42">Medians. The dashed line is {}. A bar that ends in » is cut.</text>
{body}</svg>
"#,
        reference.name(),
    )
}
