//! The manager: reads its configuration, starts the clusters' loops and the API, and stops them in order.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use mha::manager::reload::{Reloaded, Running};
use tokio::signal::unix::{Signal, SignalKind, signal};
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
    let (store, clusters, running) =
        mha::manager::start(&config, mha::manager::Part::Leads, &tracker, &stop).await?;
    let api = mha::http::ApiState::new(clusters, store, config.token.clone(), stop.clone());
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    tracing::info!(listen = %config.listen, "manager started");
    // Without a service manager there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tracker.spawn(follow_changes(flags.config, running, signal(SignalKind::hangup())?, stop.clone()));
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
        () = &mut serving => {}
        () = asked => serving.await,
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Takes the configuration over again at each SIGHUP.
async fn follow_changes(path: PathBuf, running: Running, mut hangup: Signal, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            asked = hangup.recv() => if asked.is_none() { return },
        }
        let (config, warnings) = match mha::config::load_manager(&path) {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!("the configuration is not taken over: {error}");
                continue;
            }
        };
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        match running.reload(&config).await {
            Reloaded::Same => tracing::info!("reload: the configuration says what is in force"),
            Reloaded::Refused { why } => tracing::error!("the configuration is not taken over: {why}"),
            Reloaded::Taken { at_once, after_restart } => {
                at_once.iter().for_each(|line| tracing::info!("reload: {line}"));
                let later = "not before mha-manager is restarted";
                after_restart.iter().for_each(|line| tracing::warn!("reload: {line}: {later}"));
            }
        }
    }
}
