//! Compares what clients were told with what the final primary holds: the outage, and rows lost, duplicated or
//! acknowledged by the old primary after the new one had begun. It reads files only: the writers' logs and the final
//! rows (`SELECT client, n, server FROM app.writes`, tab separated).

#[path = "record.rs"]
mod record;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use record::{Failure, Record};

#[derive(Debug, Parser)]
#[command(about = "Check the logs of writers against the final primary's rows")]
struct Args {
    /// A writer's log; may be given several times.
    #[arg(long, required = true)]
    log: Vec<PathBuf>,
    /// The final primary's rows.
    #[arg(long)]
    rows: PathBuf,
    /// When the fault was injected, CLOCK_MONOTONIC in microseconds.
    #[arg(long)]
    fault_us: u64,
    /// Server id of the primary the fault hit.
    #[arg(long, default_value_t = 1)]
    old: u32,
    /// The client whose outage is measured.
    #[arg(long, default_value_t = 1)]
    client: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ack {
    client: u32,
    n: u64,
    at_us: u64,
    server: u32,
}

/// What the checker found. Counts are of rows.
#[derive(Debug, PartialEq, Serialize)]
struct Findings {
    /// From the client's last acknowledgement by the old primary to its first by another; none when there was none.
    outage_ms: Option<f64>,
    /// From the fault to the client's first acknowledgement by another server.
    since_fault_ms: Option<f64>,
    new_server: Option<u32>,
    /// The longest time without any client's acknowledgement that ended after the fault.
    gap_ms: Option<f64>,
    acked: usize,
    /// Acknowledged, and not on the final primary.
    lost: usize,
    /// Acknowledged twice, written by nobody's hand, or twice on the final primary.
    duplicated: usize,
    /// Acknowledged by the old primary after the first acknowledgement by the new one.
    split: usize,
}

fn findings(records: &[Record], rows: &[(u32, u64)], args: &Args) -> Findings {
    let mut foreign = 0;
    let mut acks = Vec::new();
    for record in records {
        match record {
            Record::Ack { client, n, at_us, server, retried: _ } => {
                acks.push(Ack { client: *client, n: *n, at_us: *at_us, server: *server });
            }
            Record::Error { failure, .. } => foreign += usize::from(*failure == Failure::Foreign),
        }
    }
    acks.sort_by_key(|ack| ack.at_us);
    let mut held: HashMap<(u32, u64), usize> = HashMap::new();
    for row in rows {
        *held.entry(*row).or_default() += 1;
    }
    let mut told: HashMap<(u32, u64), usize> = HashMap::new();
    for ack in &acks {
        *told.entry((ack.client, ack.n)).or_default() += 1;
    }
    let new = |ack: &&Ack| ack.server != args.old && ack.at_us >= args.fault_us;
    let first_new = acks.iter().find(new).map_or(u64::MAX, |ack| ack.at_us);
    let mine: Vec<Ack> = acks.iter().filter(|ack| ack.client == args.client).copied().collect();
    let back = mine.iter().find(new).copied();
    // Invariant: an acknowledgement of the old primary after `back` is split, never the start of the outage.
    let gone = back
        .and_then(|back| mine.iter().rfind(|ack| ack.server == args.old && ack.at_us < back.at_us).copied());
    let gap = acks
        .windows(2)
        .filter(|pair| pair[1].at_us >= args.fault_us)
        .max_by_key(|pair| pair[1].at_us.saturating_sub(pair[0].at_us));
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1_000.0;
    Findings {
        outage_ms: back.zip(gone).map(|(back, gone)| ms(gone.at_us, back.at_us)),
        since_fault_ms: back.map(|back| ms(args.fault_us, back.at_us)),
        new_server: back.map(|back| back.server),
        gap_ms: gap.map(|pair| ms(pair[0].at_us, pair[1].at_us)),
        acked: acks.len(),
        lost: told.keys().filter(|row| !held.contains_key(*row)).count(),
        duplicated: foreign
            + told.values().filter(|times| **times > 1).count()
            + held.values().filter(|times| **times > 1).count(),
        split: acks.iter().filter(|ack| ack.server == args.old && ack.at_us > first_new).count(),
    }
}

fn read_rows(path: &Path) -> Result<Vec<(u32, u64)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t');
            let mut field = || fields.next().with_context(|| format!("a field is missing in {line:?}"));
            Ok((field()?.parse()?, field()?.parse()?))
        })
        .collect()
}

/// The records of a log; its last line may be half written when its writer was killed.
fn read_log(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}

fn run(args: &Args) -> Result<String> {
    let mut records = Vec::new();
    for log in &args.log {
        records.extend(read_log(log)?);
    }
    Ok(serde_json::to_string(&findings(&records, &read_rows(&args.rows)?, args))?)
}

#[expect(clippy::print_stdout, reason = "its findings are its output")]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("checker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(client: u32, n: u64, at_us: u64, server: u32) -> Record {
        Record::Ack { client, n, at_us, server, retried: false }
    }

    fn check(records: &[Record], rows: &[(u32, u64)]) -> Findings {
        let args = Args { log: Vec::new(), rows: PathBuf::new(), fault_us: 2_500, old: 1, client: 1 };
        findings(records, rows, &args)
    }

    #[test]
    fn a_clean_failover_is_an_outage_and_nothing_else() {
        // The old primary's answer may arrive a moment after the fault.
        let found = check(
            &[ack(1, 1, 1_000, 1), ack(1, 2, 3_000, 1), ack(1, 3, 90_000, 2)],
            &[(1, 1), (1, 2), (1, 3)],
        );
        assert_eq!((found.outage_ms, found.gap_ms), (Some(87.0), Some(87.0)));
        assert_eq!((found.acked, found.lost, found.duplicated, found.split), (3, 0, 0, 0));
    }

    #[test]
    fn each_kind_of_damage_is_counted() {
        let found = check(
            &[ack(1, 1, 1_000, 1), ack(1, 2, 9_000, 2), ack(7, 1, 9_500, 1), ack(1, 2, 9_900, 2)],
            &[(1, 2)],
        );
        assert_eq!((found.lost, found.duplicated, found.split), (2, 1, 1));
    }

    #[test]
    fn no_new_primary_is_no_outage_figure() {
        assert_eq!(check(&[ack(1, 1, 1_000, 1)], &[(1, 1)]).outage_ms, None);
    }
}
