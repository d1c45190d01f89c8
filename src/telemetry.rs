//! Logging set-up: for people on a terminal, JSON lines elsewhere when asked.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Logs to standard error. `MHA_LOG` filters (default `info`); `MHA_LOG_FORMAT=json` gives one JSON object a line.
pub fn install() {
    // The driver calls every refused connection an error; what it means is told by whoever asked.
    let filter = EnvFilter::try_from_env("MHA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::env::var("MHA_LOG_FORMAT").is_ok_and(|format| format == "json") {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
