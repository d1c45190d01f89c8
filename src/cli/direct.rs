//! `mhactl --direct`: a manager inside this command, for when none runs. It does nothing by itself: it looks, proposes, and acts on the
//! operator's word. What only shows asks nobody for the lead; an operation takes it, and ends with the command.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{CliError, Exit};
use super::settings::Settings;
use crate::config::{self, ManagerConfig};
use crate::http::{self, ApiState};
use crate::manager::handle::ClusterHandle;
use crate::manager::snapshot::{Hearing, NOT_ASKED};
use crate::manager::{self, Part};
use crate::model::cluster::Mode;
use crate::model::verdict::Verdict;
use crate::random;

/// How long a manager's port is knocked at.
const KNOCK: Duration = Duration::from_millis(500);
/// How long the first looks and the voters' answers are waited for; what is not there by then is shown as missing.
const FIRST_LOOKS: Duration = Duration::from_secs(4);
/// What a verdict of silence takes, beyond `silence` itself.
const AFTER_SILENCE: Duration = Duration::from_millis(500);
/// How long the parts may take to end.
const FAREWELL: Duration = Duration::from_secs(3);

/// A manager of this command's own.
#[derive(Debug)]
pub(super) struct Direct {
    settings: Settings,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Direct {
    /// Starts it, and looks until the first picture is whole.
    ///
    /// # Errors
    /// When the configuration is wrong, a manager runs after all, or this one cannot start.
    pub(super) async fn start(path: &Path, part: Part) -> Result<Self, CliError> {
        let (mut config, _) = config::load_manager(path)
            .map_err(|error| CliError::usage(error.to_string(), "mend it, or name another with --config"))?;
        refuse_beside_another(&config).await?;
        for cluster in &mut config.clusters {
            // What it shows is what it would do: nothing by itself.
            if cluster.cluster.mode == Mode::Auto {
                cluster.cluster.mode = Mode::Manual;
            }
        }
        let failed = |why: String| {
            let next = "see that data_dir in [manager] is there and yours, and that no other manager uses it";
            CliError::new(Exit::Failed, "not_started", format!("no manager of our own: {why}"), next)
        };
        // The API is on loopback, where others of this host are too.
        let token = random::hex(24).map_err(|error| failed(error.to_string()))?;
        let token = SecretString::from(token);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(error.to_string()))?;
        let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let started = manager::start(&config, part, &tracker, &stop).await;
        let (store, clusters, _) = started.map_err(|error| failed(error.to_string()))?;
        let api = ApiState::new(clusters.clone(), store, Some(token.clone()), stop.clone());
        tracker.spawn(async move {
            // Its end is this command's end, and the client says what it met.
            let _ = http::serve(listener, api).await;
        });
        let settings = Settings { manager: format!("http://{address}"), token: Some(token) };
        let direct = Self { settings, tracker, stop };
        look(&config, clusters, part).await;
        Ok(direct)
    }

    /// Where it listens, and its token.
    pub(super) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Ends it in order.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        let _ = timeout(FAREWELL, self.tracker.wait()).await;
    }
}

/// Two managers of one cluster outbid each other; the one that runs knows more.
async fn refuse_beside_another(config: &ManagerConfig) -> Result<(), CliError> {
    match timeout(KNOCK, TcpStream::connect(config.listen)).await {
        Ok(Ok(_)) => {
            let message =
                format!("somebody listens at {}, where this configuration's manager does", config.listen);
            Err(CliError::new(
                Exit::Refused,
                "manager_runs",
                message,
                "ask it, without --direct; or stop it first",
            ))
        }
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// Until every cluster has been looked at, is led where it is to be, and a silence that has begun is one.
async fn look(config: &ManagerConfig, clusters: Vec<ClusterHandle>, part: Part) {
    let silence =
        config.clusters.iter().map(|cluster| cluster.cluster.policy.silence).max().unwrap_or_default();
    let (soon, late) =
        (Instant::now() + FIRST_LOOKS, Instant::now() + FIRST_LOOKS.max(silence + AFTER_SILENCE));
    for mut handle in clusters {
        let seen = handle.board.wait_for(|shown| {
            let led = part == Part::Watches || shown.not_leading.is_none();
            let unsure = matches!(
                shown.verdict,
                Verdict::Starting | Verdict::UnreachablePrimary | Verdict::ManagerCutOff
            );
            let looked = shown
                .members
                .iter()
                .all(|member| member.state != NOT_ASKED && member.agent != Hearing::NotAsked);
            led && looked && (!unsure || Instant::now() >= late)
        });
        let _ = timeout_at(soon.max(late), seen).await;
    }
}
