use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use chrono::DateTime;
use secrecy::SecretString;

use super::*;

fn notice(sentence: &str) -> Notice {
    Notice {
        at: DateTime::UNIX_EPOCH,
        cluster: ClusterName("orders".to_owned()),
        occasion: Occasion::Refused,
        urgency: Urgency::Critical,
        sentence: sentence.to_owned(),
        verdict: Verdict::DeadPrimary,
        primary: Some(InstanceId::new("db1", 3306)),
        evidence: vec!["agent: process gone".to_owned()],
        reasons: vec!["nobody may lead".to_owned()],
        recovery: None,
    }
}

/// A service that tells `target`, in a directory of its own.
struct Service {
    directory: tempfile::TempDir,
    notifier: Notifier,
    store: Store,
    tracker: TaskTracker,
    stop: CancellationToken,
    target: watch::Sender<Option<OnEvent>>,
}

impl Service {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (target, seen) = watch::channel(None);
        let notifier = Notifier::start(seen, store.clone(), &tracker, &stop);
        Self { directory, notifier, store, tracker, stop, target }
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    async fn told(&self, count: usize) -> Vec<Told> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let told = self.store.told(&ClusterName("orders".to_owned()), 100).await.unwrap();
            if told.len() >= count {
                return told;
            }
            assert!(Instant::now() < deadline, "only {told:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(Duration::from_secs(5), self.tracker.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_is_given_the_notice_and_no_secret() {
    let service = Service::new();
    let (heard, env) = (service.directory.path().join("heard"), service.directory.path().join("env"));
    let text = format!("cat >{}\nenv >{}", heard.display(), env.display());
    service.target.send_replace(Some(OnEvent::Exec(service.script("on-event", &text))));
    service.notifier.tell(notice("orders: dead primary db1; nothing is done: nobody may lead"));
    let told = service.told(1).await;
    assert_eq!(told[0].trouble, None);
    assert!(told[0].to.starts_with("exec /"), "{told:?}");
    let given: Notice = serde_json::from_slice(&std::fs::read(heard).unwrap()).unwrap();
    assert_eq!(given, told[0].notice);
    let env = std::fs::read_to_string(env).unwrap();
    assert!(
        env.lines().all(|line| ["PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="]
            .iter()
            .any(|ours| line.starts_with(ours))),
        "{env}"
    );
    service.end().await;
}

#[tokio::test]
async fn a_program_that_fails_is_written_down_with_its_words() {
    let service = Service::new();
    let noisy = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo; exit 0";
    for (name, text, wanted) in [
        ("fails", "echo 'no\u{1b}[2Jroute' >&2; exit 3", Some("exit status: 3: no [2Jroute")),
        ("deaf", "exec <&-; exit 0", None),
        ("noisy", noisy, None),
    ] {
        let before = service.told(0).await.len();
        service.target.send_replace(Some(OnEvent::Exec(service.script(name, text))));
        service.notifier.tell(notice(name));
        let told = service.told(before + 1).await;
        match (wanted, &told[0].trouble) {
            (Some(wanted), Some(trouble)) => assert!(trouble.contains(wanted), "{trouble}"),
            (wanted, trouble) => assert_eq!(trouble.as_deref(), wanted, "{name}"),
        }
    }
    service.target.send_replace(Some(OnEvent::Exec(PathBuf::from("/nowhere/on-event"))));
    service.notifier.tell(notice("gone"));
    assert!(service.told(4).await[0].trouble.as_deref().unwrap().contains("cannot be started"));
    service.end().await;
}

/// Whatever it started is ended with it.
#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let service = Service::new();
    let pids = service.directory.path().join("pids");
    let hangs =
        service.script("hangs", &format!("sleep 600 & echo $! >{0}; echo $$ >>{0}; wait", pids.display()));
    let deadline = Instant::now() + Duration::from_secs(1);
    let why = exec::run(&hangs, b"{}", deadline).await.unwrap_err();
    assert!(why.contains("was killed"), "{why}");
    let gone = |pid: &str| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 2);
    while !pids.lines().all(gone) {
        assert!(Instant::now() < deadline, "still there: {pids}");
        sleep(Duration::from_millis(10)).await;
    }
    service.end().await;
}

/// A listener that refuses so many requests, then takes them.
async fn listener(service: &Service, refusals: usize) -> (String, Arc<Mutex<Vec<Notice>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (kept, left) = (Arc::clone(&heard), Arc::new(Mutex::new(refusals)));
    let take = move |axum::Json(notice): axum::Json<Notice>| {
        let (kept, left) = (Arc::clone(&kept), Arc::clone(&left));
        async move {
            let mut left = left.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            kept.lock().unwrap().push(notice);
            StatusCode::NO_CONTENT
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook/s3cret-key", listener.local_addr().unwrap());
    let stop = service.stop.clone();
    let app = Router::new().route("/hook/s3cret-key", post(take));
    service.tracker.spawn(async move {
        axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
    });
    (url, heard)
}

#[tokio::test]
async fn a_webhook_is_posted_to_until_it_takes_it() {
    let service = Service::new();
    let (url, heard) = listener(&service, 1).await;
    service.target.send_replace(Some(OnEvent::Webhook(SecretString::from(url))));
    service.notifier.tell(notice("first"));
    let told = service.told(1).await;
    assert_eq!((told[0].trouble.as_deref(), told[0].to.as_str()), (None, "webhook"));
    assert_eq!(*heard.lock().unwrap(), [notice("first")]);
    // Whom it tells is looked up each time.
    service.target.send_replace(None);
    service.notifier.tell(notice("nobody"));
    service.end().await;
}

#[tokio::test]
async fn no_error_of_a_webhook_names_its_address() {
    let service = Service::new();
    let (url, _) = listener(&service, usize::MAX).await;
    let within = Duration::from_secs(5);
    let tls = url.replace("http://", "https://");
    let nowhere = "http://127.0.0.1:1/s3cret-key".to_owned();
    for url in [url, tls, nowhere, "s3cret-key".to_owned()] {
        let why = webhook::post(&SecretString::from(url.as_str()), b"{}", within).await.unwrap_err();
        assert!(!why.contains("s3cret"), "{why}");
    }
    service.end().await;
}

#[tokio::test]
async fn a_queue_that_is_full_holds_nobody_up() {
    let service = Service::new();
    let script = service.script("slow", "sleep 0.2");
    service.target.send_replace(Some(OnEvent::Exec(script)));
    let began = Instant::now();
    for number in 0..QUEUE * 3 {
        service.notifier.tell(notice(&format!("notice {number}")));
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    service.told(1).await;
    service.end().await;
}
