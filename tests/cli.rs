//! `mhactl` as an operator meets it: the program itself against the real API on a socket; its words, its JSON, its exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod desk;
#[path = "cli/rolling.rs"]
mod rolling;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use desk::{Desk, Script, dead, ended, failover, healthy};
use mha::execute::Outcome;
use mha::http::{ApiState, serve};
use mha::manager::snapshot::{Snapshot, Waiting};
use mha::model::job::{Job, Phase, Task};
use mha::model::wishes::{Threads, Wish};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

struct Api {
    url: String,
    _serving: tokio::task::JoinHandle<()>,
}

async fn api(state: ApiState) -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "a test's own task, ended with its runtime")]
    let serving = tokio::spawn(async move { serve(listener, state).await });
    Api { url, _serving: serving }
}

fn mhactl(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mhactl"));
    command
        .args(args)
        .env_clear()
        .env("USER", "ann")
        .env("MHA_MANAGER", url)
        .stdin(std::process::Stdio::null());
    command
}

async fn run(url: &str, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = mhactl(url, args).output().await.unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Compares with a text in `tests/cli/`; `UPDATE_GOLDEN=1` writes it instead.
fn golden(name: &str, got: &str) {
    let path = format!("{}/tests/cli/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        got == want,
        "{path} differs; look, then run with UPDATE_GOLDEN=1\n--- want\n{want}\n--- got\n{got}"
    );
    assert!(!got.chars().any(|c| c.is_control() && c != '\n'), "a control character reached the terminal");
}

#[tokio::test]
async fn a_healthy_cluster_on_one_screen() {
    let desk = Desk::new(healthy(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, err) = run(&api.url, &["status"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    golden("status_healthy", &out);
    let (code, out, _) = run(&api.url, &["topology", "orders"]).await;
    assert_eq!(code, 0);
    golden("topology_healthy", &out);
}

#[tokio::test]
async fn a_dead_primary_is_unhealthy_and_nothing_moves_the_cursor() {
    let desk = Desk::new(dead(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, _) = run(&api.url, &["status"]).await;
    assert_eq!(code, 5);
    golden("status_dead", &out);
    golden("topology_dead", &run(&api.url, &["topology"]).await.1);
    let (code, out, _) = run(&api.url, &["status", "orders", "--json"]).await;
    assert_eq!(code, 5);
    let shown: mha::manager::snapshot::Snapshot = serde_json::from_str(&out).unwrap();
    assert_eq!(shown, dead(), "JSON says what the API says");
    assert!(!out.contains('\u{9b}') && !out.contains('\u{1b}'));
}

#[tokio::test]
async fn several_clusters_are_listed_and_must_be_named() {
    let desk = Desk::new(healthy(), Script::default());
    let api = api(desk.state_of_two()).await;
    let (code, out, _) = run(&api.url, &["status"]).await;
    assert_eq!(code, 0);
    golden("status_many", &out);
    let (code, _, err) = run(&api.url, &["topology"]).await;
    assert_eq!((code, err.contains("name one of: billing, orders")), (2, true), "{err}");
    let (code, _, err) = run(&api.url, &["topology", "nosuch"]).await;
    assert_eq!((code, err.contains("no cluster \"nosuch\"")), (2, true), "{err}");
    let (code, out, _) = run(&api.url, &["status", "--json"]).await;
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, value["clusters"].as_array().unwrap().len()), (0, 2));
}

#[tokio::test]
async fn a_dry_run_shows_both_plans_and_begins_nothing() {
    let desk = Desk::new(dead(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, _) = run(&api.url, &["failover", "--dry-run", "--to", "db2"]).await;
    assert_eq!(code, 0);
    golden("failover_dry_run", &out);
    let (code, _, err) = run(&api.url, &["failover"]).await;
    assert_eq!((code, err.contains("was not confirmed")), (3, true), "{err}");
    let heard = desk.heard.lock().unwrap();
    assert!(heard.iter().all(|ask| ask.contains("Propose")), "{heard:?}");
}

#[tokio::test]
async fn a_handoff_is_done_or_ends_by_its_deadline() {
    let desk = Desk::new(healthy(), Script::default());
    let at = api(desk.state(None)).await;
    let (code, out, _) = run(&at.url, &["handoff", "db2"]).await;
    assert_eq!(
        (code, out.contains("db2 does not lead orders: nothing is to be handed over")),
        (0, true),
        "{out}"
    );
    let (code, _, err) = run(&at.url, &["handoff", "db9"]).await;
    assert_eq!((code, err.contains("db9 is no member of orders")), (2, true), "{err}");
    let (code, _, err) = run(&at.url, &["handoff", "db1"]).await;
    assert_eq!((code, err.contains("was not confirmed")), (3, true), "{err}");
    let (code, out, err) = run(&at.url, &["handoff", "db1", "--yes"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(desk.heard.lock().unwrap().iter().any(|ask| ask.contains("Begin") && ask.contains("by: \"ann@")));

    let refused = Script { refusals: vec!["db2 is 20.0 s behind".to_owned()] };
    let desk = Desk::new(healthy(), refused);
    let at = api(desk.state(None)).await;
    let began = mha::clock::now();
    let (code, _, err) = run(&at.url, &["handoff", "db1", "--yes", "--deadline", "2500ms"]).await;
    assert_eq!((code, err.contains("db1 was not handed over within 2 s")), (3, true), "{err}");
    assert!(err.contains("db2 is 20.0 s behind"), "{err}");
    let took = mha::clock::now().since(began);
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    assert!(desk.heard.lock().unwrap().iter().all(|ask| ask.contains("Propose")));
}

/// Hosts are destroyed, and with them the majority of votes: nothing happens before that is said in words.
#[tokio::test]
async fn a_disaster_is_vouched_for_in_words() {
    let nothing_runs = Snapshot { recovering: false, ..dead() };
    let desk = Desk::new(nothing_runs, Script::default());
    let api = api(desk.state(None)).await;
    let begin = ["failover", "--accept-loss", "--old-primary-is-dead", "--without-voters", "db1,db2"];
    let heard = |what: &str| desk.heard.lock().unwrap().iter().filter(|ask| ask.contains(what)).count();
    let (code, out, err) = run(&api.url, &begin).await;
    assert!(code != 0 && err.contains("\"db1 db2 destroyed\""), "{err}");
    assert!(out.contains("remove the rest of that directory"), "{out}");
    for words in ["yes", "db1 destroyed"] {
        let (code, _, _) = run(&api.url, &[&begin[..], &["--confirm", words]].concat()).await;
        assert_ne!(code, 0, "{words}");
    }
    assert_eq!(heard("Votes"), 0);
    let (code, out, err) = run(&api.url, &[&begin[..], &["--confirm", "db1 db2 destroyed"]].concat()).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(err.contains("the voters of orders are now: db3"), "{err}");
    assert_eq!(heard("Votes { destroyed: [\"db1\", \"db2\"], back: []"), 1);
    let (code, _, err) = run(&api.url, &["failover", "--without-voters", "db1"]).await;
    assert!(code != 0 && err.contains("--accept-loss"), "{err}");
    let (code, _, _) = run(&api.url, &["votes", "orders", "--back", "db1"]).await;
    assert_eq!((code, heard("back: [\"db1\"]")), (0, 1));
}

#[tokio::test]
async fn a_failover_is_followed_to_its_end() {
    let desk = Desk::new(dead(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, err) = run(&api.url, &["failover", "--yes", "--accept-loss"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    golden("failover", &out);
    assert!(
        desk.heard
            .lock()
            .unwrap()
            .iter()
            .any(|ask| ask.contains("accept_loss: true") && ask.contains("by: \"ann@"))
    );
    let (code, out, _) = run(&api.url, &["follow"]).await;
    assert_eq!(code, 0);
    golden("history", &out);
    for args in [&["history", "orders"][..], &["history", "orders", "r1"]] {
        let (code, out, _) = run(&api.url, args).await;
        assert_eq!(code, 0);
        golden("history", &out);
    }
    let (code, out, _) = run(&api.url, &["history", "--json"]).await;
    let history: mha::http::contract::History = serde_json::from_str(&out).unwrap();
    assert_eq!((code, history.recoveries[0].outcome()), (0, Some(&Outcome::Done)));
}

#[tokio::test]
async fn a_recovery_that_failed_is_a_failure() {
    let desk = Desk::new(dead(), Script::default());
    let mut past = failover("r0");
    past.entries.push(ended(Outcome::Undone {
        why: "no candidate".to_owned(),
        left: vec!["db3 follows nobody".to_owned()],
    }));
    desk.recovery.send_replace(Some(Arc::new(past.clone())));
    desk.remember(&past).await;
    let api = api(desk.state(None)).await;
    let (code, out, _) = run(&api.url, &["history", "orders", "r0"]).await;
    assert_eq!(code, 0);
    golden("history_undone", &out);
    assert_eq!(run(&api.url, &["history", "orders", "r9"]).await.0, 2);
}

#[tokio::test]
async fn adoption_shows_its_plan_and_wants_a_word() {
    let desk = Desk::new(healthy(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, err) = run(&api.url, &["adopt", "orders", "--primary", "db1"]).await;
    assert_eq!(code, 3);
    golden("adopt_unconfirmed", &format!("{out}{err}"));
    assert!(desk.heard.lock().unwrap().iter().all(|ask| ask.starts_with("AdoptPlan")));
    let (code, _, _) = run(&api.url, &["adopt", "orders", "--yes"]).await;
    assert_eq!(code, 0);
    let (code, out, _) = run(&api.url, &["unpark", "db3"]).await;
    assert_eq!((code, out.as_str()), (0, "db3 is in automatic hands again\n"));
    let (code, out, _) = run(&api.url, &["ack"]).await;
    assert_eq!((code, out.contains("acknowledged")), (0, true));
}

#[tokio::test]
async fn a_returned_members_extra_rows_are_shown_before_anything_is_done() {
    let desk = Desk::new(healthy(), Script::default());
    let api = api(desk.state(None)).await;
    let (code, out, _) = run(&api.url, &["rejoin", "db1", "--how", "flashback", "--dry-run"]).await;
    assert_eq!(code, 0);
    golden("rejoin_dry_run", &out);
    let (code, _, err) = run(&api.url, &["rejoin", "db1"]).await;
    assert_eq!((code, err.contains("--yes")), (3, true), "{err}");
    let (code, _, _) = run(&api.url, &["rejoin", "db1", "--yes"]).await;
    assert_eq!(code, 0);
    let rebuild = ["rejoin", "db3", "--how", "rebuild", "--from", "db1", "--dry-run"];
    let (code, out, _) = run(&api.url, &rebuild).await;
    assert_eq!(code, 0);
    golden("rejoin_rebuild_dry_run", &out);
    let (_, same, _) = run(&api.url, &["replica", "rebuild", "db3", "--from", "db1", "--dry-run"]).await;
    assert_eq!(same, out);
    let (code, _, err) = run(&api.url, &["rejoin", "db3", "--from", "db1", "--dry-run"]).await;
    assert!(code != 0 && err.contains("nothing is rebuilt"), "{code}: {err}");
    let (code, _, _) = run(&api.url, &["rejoin", "db1", "--how", "magic"]).await;
    assert_eq!(code, 2);
    let heard = desk.heard.lock().unwrap().join("\n");
    assert!(
        heard.contains("how: Flashback")
            && heard.lines().filter(|ask| ask.starts_with("Rejoin") && ask.contains("Begin")).count() == 1
    );
}

#[tokio::test]
async fn a_rebuild_is_watched_until_the_member_replicates() {
    let desk = Desk::new(healthy(), Script::default());
    let at = api(desk.state(None)).await;
    let rebuild = ["rejoin", "db3", "--how", "rebuild", "--yes"];
    let (code, out, _) = run(&at.url, &[&rebuild[..], &["--detach"]].concat()).await;
    assert_eq!(
        (code, out.contains("the rebuild of db3 has begun and goes on by itself")),
        (0, true),
        "{out}"
    );

    let task = Task::Rebuild { from: desk::host("db2"), keep: false };
    let job = |phase| Job {
        task: task.clone(),
        phase,
        age: Duration::from_secs(1),
        done: 5 << 20,
        total: Some(9 << 20),
    };
    let show = |job: Option<Job>| {
        let mut board = healthy();
        board.members[2].job = job;
        desk.board.send_replace(Arc::new(board));
    };
    let watched = async |last: Option<Job>| {
        show(Some(job(Phase::Copying)));
        let mut watching =
            mhactl(&at.url, &rebuild).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut out, mut lines) = (String::new(), BufReader::new(watching.stdout.take().unwrap()).lines());
        while let Some(line) = lines.next_line().await.unwrap() {
            out.push_str(&line);
            if line.contains("5 MiB of 9 copied") {
                show(last.clone());
            }
        }
        let ended = watching.wait_with_output().await.unwrap();
        (ended.status.code().unwrap(), out, String::from_utf8(ended.stderr).unwrap())
    };
    let (code, out, err) = watched(None).await;
    assert_eq!((code, out.contains("db3 replicates with its new data")), (0, true), "{out}{err}");
    let (code, _, err) = watched(Some(job(Phase::Failed { why: "the disk is full".to_owned() }))).await;
    assert_eq!((code, err.contains("db3 was not rebuilt: the disk is full")), (1, true), "{err}");
}

#[tokio::test]
async fn what_is_written_wrong_is_told_with_what_to_write() {
    let desk = Desk::new(healthy(), Script::default());
    let at = api(desk.state(None)).await;
    for (args, said) in [
        (
            &["handoff", "db1", "--deadline", "0s"][..],
            "--deadline <SPAN>': another can lead after about a second",
        ),
        (
            &["replica", "add", "db4", "--agent", "ftp://db4:8421"],
            "is no URL of an agent; write \"http://HOST:8421\"",
        ),
        (&["replica", "add", "db4", "--agent", "http://:8421"], "is no URL of an agent"),
        (&["replica", "add", "db4", "--agent", "http://db4:8421/x"], "with nothing behind the port"),
        (&["replica", "add", "db4", "--agent", "http://u:p@db4:8421"], "is no URL of an agent"),
        (&["replica", "add", "db4", "--agent", "http://db4"], "has no port"),
        (&["open", "--agent", "ftp://db4"], "is no URL of an agent"),
        (&["history", "nosuchid"], "there is no recovery \"nosuchid\""),
        (&["history", "orders", "nosuchid"], "take an id from \"mhactl history\""),
        (&["history", "other", "nosuchid"], "there is no cluster \"other\""),
        (&["handoff", "db9"], "whose members are db1, db2, db3"),
    ] {
        let (code, _, err) = run(&at.url, args).await;
        assert_eq!((code, err.contains(said)), (2, true), "{args:?}: {err}");
    }
    assert!(desk.heard.lock().unwrap().is_empty());
    desk.remember(&failover("r5")).await;
    let (code, out, err) = run(&at.url, &["history", "r5"]).await;
    assert_eq!((code, out.contains("failover of db1")), (0, true), "{out}{err}");
}

#[tokio::test]
async fn a_replicas_change_is_shown_before_it_is_done() {
    let mut board = healthy();
    let at = board.at;
    for (name, wish) in [
        ("db3", Wish::Stop { threads: Threads::Applier, by: "bob@desk".to_owned() }),
        ("db3", Wish::Follow { source: Some(desk::host("db2")) }),
        ("db4", Wish::Leave),
    ] {
        board.wishes.note(&desk::host(name), &wish, at);
    }
    let why = "the last attempt failed: db2 is gone".to_owned();
    board.waiting.push(Waiting { instance: desk::host("db2"), why });
    let desk = Desk::new(board, Script::default());
    let api = api(desk.state(None)).await;
    let (_, out, _) = run(&api.url, &["status"]).await;
    golden("status_wishes", &out);
    let (code, out, _) = run(&api.url, &["replica", "stop", "db3", "--dry-run"]).await;
    assert_eq!(code, 0);
    golden("replica_dry_run", &out);
    let (code, _, err) = run(&api.url, &["replica", "move", "db3", "--source", "db2"]).await;
    assert_eq!((code, err.contains("--yes")), (3, true), "{err}");
    for args in [
        &["replica", "move", "db3", "--source", "db2", "--yes"][..],
        &["replica", "stop", "db3", "--io", "--force", "--yes"],
        &["replica", "start", "db3", "--cluster", "orders", "--yes"],
        &["replica", "remove", "db3", "--keep-running", "--wait", "3s", "--yes"],
        &["replica", "add", "db3", "--agent", "http://db3:8421", "--yes"],
        &["set", "read-only", "db2", "on", "--yes"],
    ] {
        assert_eq!(run(&api.url, args).await.0, 0, "{args:?}");
    }
    for args in [
        &["replica", "stop", "db3", "--io", "--sql"][..],
        &["replica", "move", "db3"],
        &["set", "read-only", "db2", "maybe"],
    ] {
        assert_eq!(run(&api.url, args).await.0, 2, "{args:?}");
    }
    let heard = desk.heard.lock().unwrap().join("\n");
    for what in [
        "threads: Receiver }, force: true",
        "keep_running: true }, force: false, within: 3s",
        "ReadOnly { on: true }",
    ] {
        assert!(heard.contains(what), "{what}: {heard}");
    }
}

#[tokio::test]
async fn a_refusal_names_its_reasons_once() {
    let script = Script { refusals: vec!["the agent on db2 is not heard".to_owned()] };
    let desk = Desk::new(healthy(), script);
    let api = api(desk.state(None)).await;
    let (code, out, err) = run(&api.url, &["adopt", "--yes"]).await;
    assert_eq!((code, out.as_str()), (3, ""));
    golden("adopt_refused", &err);
    let (code, out, err) = run(&api.url, &["failover", "--yes"]).await;
    assert_eq!(code, 3);
    assert_eq!(format!("{out}{err}").matches("the agent on db2 is not heard").count(), 1, "{out}{err}");
    let (code, out, _) = run(&api.url, &["adopt", "--yes", "--json"]).await;
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, value["error"]["code"].as_str()), (3, Some("refused")));
}

#[tokio::test]
async fn the_token_is_read_from_its_file_and_its_lack_is_its_own_code() {
    let desk = Desk::new(healthy(), Script::default());
    let api = api(desk.state(Some("s3cret"))).await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", "s3cret\n"), file("wrong", "guess"));
    assert_eq!(run(&api.url, &["status", "--token-file", &right]).await.0, 0);
    for args in [&["status"][..], &["status", "--token-file", &wrong]] {
        let (code, _, err) = run(&api.url, args).await;
        assert_eq!((code, err.contains("guess")), (6, false), "{err}");
    }
    assert_eq!(run(&api.url, &["status", "--token-file", "/nowhere"]).await.0, 2);
}

#[tokio::test]
async fn nobody_there_is_told_as_such() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (code, out, err) = run(&format!("http://{port}"), &["status"]).await;
    assert_eq!((code, out.as_str()), (4, ""));
    assert!(err.contains("was not reached") && err.contains("refused") && err.contains("next:"), "{err}");
    assert_eq!(run("ftp://x", &["status"]).await.0, 2);
    assert_eq!(run("http://x", &["sttus"]).await.0, 2);
}

#[tokio::test]
async fn direct_reads_a_configuration_and_leaves_a_manager_alone() {
    let (code, _, said) = run("http://127.0.0.1:1", &["--direct", "-c", "/nowhere.toml", "status"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("/nowhere.toml"), "{said}");
    let manager = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (password, file) = (dir.path().join("password"), dir.path().join("manager.toml"));
    std::fs::write(&password, "secret\n").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let account = |user: &str| format!("{{ user = {user:?}, password = {{ file = {password:?} }} }}");
    let text = format!(
        "[manager]\nlisten = \"{}\"\ndata_dir = {:?}\n[defaults]\nagents = false\nadmin = {}\nreplication = {}\nheartbeat = {}\n\
         [[cluster]]\nname = \"orders\"\n[[cluster.instance]]\nhost = \"db1\"\n[[cluster.instance]]\nhost = \"db2\"\n",
        manager.local_addr().unwrap(),
        dir.path(),
        account("mha"),
        account("mha_repl"),
        account("mha_heartbeat"),
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, said) =
        run("http://127.0.0.1:1", &["--direct", "-c", file.to_str().unwrap(), "failover", "--yes"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("somebody listens at") && said.contains("without --direct"), "{said}");
}

#[tokio::test]
async fn a_configuration_is_checked_without_a_manager() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/manager.toml");
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, "[manager]\nlistn = \"127.0.0.1:1\"\n").unwrap();
    let (code, out, err) = run("", &["config", "check", bad.to_str().unwrap()]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("bad.toml:2:1") && err.contains("listen"), "{err}");
    // The example names secret files that are not here: told at their lines.
    let (_, out, err) = run("", &["config", "check", example]).await;
    assert!(out.contains("good") || err.contains("manager.toml:"), "{out}{err}");
}

#[tokio::test]
async fn help_names_the_exit_codes_and_completions_are_a_script() {
    let (code, out, _) = run("", &["--help"]).await;
    assert_eq!((code, out.contains("3  refused")), (0, true), "{out}");
    let (code, out, _) = run("", &["completions", "bash"]).await;
    assert_eq!((code, out.contains("_mhactl")), (0, true));
}
