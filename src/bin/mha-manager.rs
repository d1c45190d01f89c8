//! The manager: reads its configuration, starts the clusters' loops and the API, and stops them in order.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Watches MySQL and MariaDB clusters and fails them over.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Where the configuration is.
    #[arg(short, long, default_value = "/etc/mha/manager.toml")]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    mha::telemetry::install();
    match serve(flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    let (config, warnings) = mha::config::load_manager(&flags.config)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (store, clusters) = mha::manager::start(&config, &tracker, &stop).await?;
    let api = mha::http::ApiState::new(clusters, store, config.token.clone(), stop.clone());
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    tracing::info!(listen = %config.listen, "manager started");
    // Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ending = stop.clone();
    let asked = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        ending.cancel();
    };
    let mut serving = std::pin::pin!(mha::http::serve(listener, api));
    tokio::select! {
        ended = &mut serving => ended?,
        () = asked => serving.await?,
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}
