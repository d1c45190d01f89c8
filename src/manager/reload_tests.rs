use std::sync::Arc;

use tokio::sync::mpsc;

use super::*;
use crate::config::check_manager_text;
use crate::manager::snapshot::{Doing, Snapshot};
use crate::model::cluster::Mode;

/// A service of one cluster, and what its task is told.
struct Desk {
    directory: tempfile::TempDir,
    running: Running,
    events: mpsc::Receiver<Event>,
    board: watch::Sender<Arc<Snapshot>>,
    on_event: watch::Receiver<Option<OnEvent>>,
}

fn text(directory: &std::path::Path) -> String {
    let at = directory.display();
    let account =
        |key: &str| format!("{key} = {{ user = \"{key}\", password = {{ file = \"{at}/secret\" }} }}\n");
    format!(
        "[manager]\ndata_dir = \"{at}\"\n[defaults]\n{}{}{}agent_token = {{ file = \"{at}/secret\" }}\n\
         [[cluster]]\nname = \"orders\"\nmode = \"observe\"\n[[cluster.instance]]\nhost = \"db1\"\n\
         [[cluster.instance]]\nhost = \"db2\"\n[[cluster.instance]]\nhost = \"db3\"\n",
        account("admin"),
        account("replication"),
        account("heartbeat"),
    )
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("secret"), "hunter2").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("secret"), mode).unwrap();
        let (config, _) = check_manager_text("manager.toml", &text(directory.path())).unwrap();
        let name = config.clusters[0].cluster.name.clone();
        let snapshot = super::super::teller::tests::blank(&name);
        let (board, shown) = watch::channel(Arc::new(snapshot));
        let (_, recovery) = watch::channel(None);
        let (sender, events) = mpsc::channel(8);
        let handle = ClusterHandle::new(name, shown, recovery, sender);
        let (told, on_event) = watch::channel(None);
        Self { directory, running: Running::new(config, told, vec![handle]), events, board, on_event }
    }

    async fn reload(&self, edit: impl Fn(String) -> String) -> Reloaded {
        let text = edit(text(self.directory.path()));
        self.running.reload(&check_manager_text("manager.toml", &text).unwrap().0).await
    }
}

#[tokio::test]
async fn what_can_count_at_once_does_and_the_rest_is_named() {
    let mut desk = Desk::new();
    assert_eq!(desk.reload(|text| text).await, Reloaded::Same);
    let edit = |text: String| {
        let text = text
            .replace("\"observe\"", "\"auto\"")
            .replace("[manager]\n", "[manager]\non_event = { webhook = \"http://h/s3cret\" }\n");
        text.replace("[defaults]\n", "[defaults]\nsilence = \"5s\"\n")
    };
    let Reloaded::Taken { at_once, after_restart } = desk.reload(edit).await else { panic!("refused") };
    assert_eq!(at_once, ["manager: on_event changed", "cluster orders: mode observe becomes auto"]);
    assert_eq!(after_restart, ["cluster orders: silence 3s becomes 5s"]);
    assert!(matches!(desk.events.try_recv(), Ok(Event::Mode(Mode::Auto))));
    assert!(matches!(*desk.on_event.borrow(), Some(OnEvent::Webhook(_))));
    // What waits for a restart is told again, what is in force is not.
    let Reloaded::Taken { at_once, after_restart } = desk.reload(edit).await else { panic!("refused") };
    assert_eq!((at_once.len(), after_restart.len()), (0, 1));
}

#[tokio::test]
async fn a_running_recovery_keeps_its_cluster_as_it_was() {
    let mut desk = Desk::new();
    let running = Snapshot { recovering: true, doing: Doing::Act, ..(**desk.board.borrow()).clone() };
    desk.board.send_replace(Arc::new(running));
    let removed = |text: String| {
        text.replace("[[cluster.instance]]\nhost = \"db3\"\n", "").replace("\"observe\"", "\"auto\"")
    };
    let Reloaded::Refused { why } = desk.reload(removed).await else { panic!("taken") };
    assert!(why.contains("a recovery of orders is running"), "{why}");
    let renamed = |text: String| text.replace("\"orders\"", "\"users\"");
    assert!(matches!(desk.reload(renamed).await, Reloaded::Refused { .. }));
    assert!(desk.events.try_recv().is_err(), "nothing is taken over in part");
    // Its mode is not the recovery's business.
    let mode = |text: String| text.replace("\"observe\"", "\"manual\"");
    assert!(matches!(desk.reload(mode).await, Reloaded::Taken { .. }));
    assert!(matches!(desk.events.try_recv(), Ok(Event::Mode(Mode::Manual))));
}
