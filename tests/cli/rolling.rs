//! `mhactl rolling`: one server after the other, and where it stops.

use super::*;

/// All is well, and was asked after whatever command.
fn looked_at_since() -> Snapshot {
    let mut board = healthy();
    let later = board.at + TimeDelta::hours(1);
    board.members.iter_mut().for_each(|member| member.asked_at = Some(later));
    board
}

#[tokio::test]
async fn a_rolling_change_goes_on_while_all_is_well_and_says_where_it_stopped() {
    let board = looked_at_since();
    let desk = Desk::new(board.clone(), Script::default());
    let api = api(desk.state(None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turns").display().to_string();
    let command = format!("echo $HOST $PORT $CLUSTER $ROLE >>{file}; [ $HOST != ${{BAD:-none}} ]");

    let (code, out, _) = run(&api.url, &["rolling", "--command", &command, "--dry-run"]).await;
    assert_eq!(code, 0);
    golden("rolling_dry_run", &out);
    let (_, out, _) = run(&api.url, &["rolling", "--command", &command, "--dry-run", "--json"]).await;
    let hosts: Vec<Value> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["host"].clone()).collect();
    assert_eq!(hosts, ["db3".into(), "db2".into(), Value::Null, "db1".into()]);
    let (code, _, err) = run(&api.url, &["rolling", "--command", &command]).await;
    assert_eq!((code, err.contains("--yes")), (3, true), "{err}");

    // The switchover of this desk changes nothing: its old primary follows nobody.
    let (code, out, err) =
        run(&api.url, &["rolling", "--command", "true", "--wait", "1s", "--skip", "db3", "--yes"]).await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(
        err.contains("stopped at switchover (2 of 3): not level after 1.0 s: db1 does not replicate"),
        "{err}"
    );
    assert!(err.contains("--skip db3 --skip db2"), "{err}");

    let args = ["rolling", "orders", "--command", &command, "--skip", "db1", "--yes"];
    let ran = mhactl(&api.url, &args).env("BAD", "db2").output().await.unwrap();
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8(ran.stderr).unwrap().replace(&file, "FILE");
    golden("rolling_stopped", &said);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "db3 3306 orders replica\ndb2 3306 orders replica\n");
    assert_eq!(run(&api.url, &args).await.0, 0);

    let slow = ["rolling", "--command", "sleep 60", "--command-timeout", "100ms", "--yes"];
    let (code, _, err) = run(&api.url, &slow).await;
    assert_eq!((code, err.contains("it was ended after 100 ms")), (1, true), "{err}");
    let mut worse = board;
    worse.members[1].receiver = None;
    worse.ackers = vec![desk::host("db3")];
    desk.board.send_replace(Arc::new(worse));
    let (code, _, err) = run(&api.url, &["rolling", "--command", "true", "--yes"]).await;
    assert_eq!(code, 3);
    golden("rolling_refused", &err);
}

#[tokio::test]
async fn ctrl_c_lets_the_command_end_and_nothing_follows() {
    let board = looked_at_since();
    let desk = Desk::new(board, Script::default());
    let api = api(desk.state(None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turns");
    let command = format!("f={}; echo begun $HOST >>$f; sleep 1; echo ended >>$f", file.display());
    let child = mhactl(&api.url, &["rolling", "--command", &command, "--yes"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    while text().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), text().as_str()), (Some(1), "begun db3\nended\n"), "{err}");
    for part in ["stops after this command", "stopped at db3, a replica (1 of 4): Ctrl-C", "--skip db3"] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

/// Another operator's switchover makes the host lead whose command runs: that is told at once, not waited for.
#[tokio::test]
async fn a_server_that_leads_after_its_turn_is_told() {
    let mut board = healthy();
    let desk = Desk::new(board.clone(), Script::default());
    let api = api(desk.state(None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("runs");
    let command = format!("touch {}; sleep 0.5", file.display());
    let args = ["rolling", "--command", &command, "--wait", "60s", "--yes"];
    let began = tokio::time::Instant::now();
    let (ran, ()) = tokio::join!(run(&api.url, &args), async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        board.primary = Some(desk::host("db3"));
        desk.board.send_replace(Arc::new(board));
    });
    assert!(ran.0 == 1 && ran.2.contains("db3 leads by now: a switchover or failover came"), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_second_one_is_told_that_one_goes_round() {
    let board = looked_at_since();
    let desk = Desk::new(board, Script::default());
    let api = api(desk.state(None)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("begun");
    let command = format!("touch {}; exec sleep 60", file.display());
    let mut first = mhactl(&api.url, &["rolling", "--command", &command, "--command-timeout", "4s", "--yes"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !file.exists() {
        assert!(first.try_wait().unwrap().is_none(), "it ended before its command began");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let again = ["rolling", "--command", "true", "--skip", "db1", "--yes"];
    let (code, _, err) = run(&api.url, &again).await;
    assert_eq!(code, 3, "{err}");
    assert!(
        err.contains("one goes round the servers of orders already") && err.contains("runs since"),
        "{err}"
    );
    let said = first.wait_with_output().await.unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("it was ended after 4.0 s") && said.contains("--command-timeout 4000ms"), "{said}");
    assert_eq!(run(&api.url, &again).await.0, 0, "its place is free again");
}
