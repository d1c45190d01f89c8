//! The agent's process: reads its configuration, then hands over to [`mha::agent::run`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mha::agent::boot::Closed;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Watches, fences and opens the database server of this host, and votes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/mha/agent.toml")]
    config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Close the server's ports and end: for the time between a boot and the agent's start. Opens nothing, ever; does nothing
    /// where no cluster has adopted this host or an agent has run since the boot.
    #[arg(long, conflicts_with = "check")]
    close: bool,
    /// Ask the running agent whether the server may be stopped, and end when it may: when another leads, or no client is
    /// connected any more. For ExecStop= of the server's unit. Waits no longer than `handoff_within`.
    #[arg(long, conflicts_with_all = ["check", "close"])]
    before_stop: bool,
    /// The same before the agent itself is stopped; nothing where it is started again at once.
    #[arg(long, conflicts_with_all = ["check", "close", "before_stop"])]
    before_own_stop: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    mha::telemetry::install();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn close(config: &mha::config::AgentConfig) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    match runtime.block_on(mha::agent::boot::close(config))? {
        Closed::Now { ports } => tracing::info!(?ports, "closed until the agent opens"),
        Closed::NotOurs => tracing::info!("no cluster has adopted a server of this host: nothing is closed"),
        Closed::AgentWasHere => tracing::info!("an agent has run since the boot: left as it said"),
    }
    Ok(())
}

fn before(config: &mha::config::AgentConfig, own: bool) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let done = runtime.block_on(async {
        if own {
            mha::agent::farewell::before_agent(config).await
        } else {
            mha::agent::farewell::before_server(config).await
        }
    })?;
    tracing::info!("{done}");
    Ok(())
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let (config, warnings) = mha::config::load_agent(&arguments.config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if arguments.check {
        return Ok(());
    }
    if arguments.close {
        return close(&config);
    }
    if arguments.before_stop || arguments.before_own_stop {
        return before(&config, arguments.before_own_stop);
    }
    // Two threads: one that hangs in the kernel does not hold up the lease.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Lookups of names that nobody answers hold theirs for seconds, and the packet filter needs one within half a second.
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        let work = mha::agent::run(config, cancel.clone());
        tokio::pin!(work);
        tokio::select! {
            ended = &mut work => return ended.map_err(anyhow::Error::from),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; what the kernel holds is left to it");
        cancel.cancel();
        work.await.map_err(anyhow::Error::from)
    });
    // A write that hangs in the disk does not keep the process.
    runtime.shutdown_background();
    outcome
}
