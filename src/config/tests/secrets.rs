//! Where secrets come from, and that nothing ever shows one.

use secrecy::ExposeSecret;

use super::super::{OnEvent, difference, load_manager};
use super::{Etc, GOOD, GOOD_AGENT, assert_said, outcome};

#[test]
fn a_secret_is_its_files_first_line() {
    let etc = Etc::new();
    etc.write("admin", "p w\r\n", 0o640);
    let (config, _) = etc.manager(GOOD).unwrap();
    assert_eq!(config.clusters[0].accounts.admin.password.expose_secret(), "p w");
    assert_eq!(config.clusters[0].accounts.replication.password.expose_secret(), "repl-hunter2");
}

#[test]
fn files_that_are_no_secret_are_refused_at_their_line() {
    let cases: [(&str, u32, &str); 6] = [
        ("x\n", 0o644, "is open to everybody (mode 0644) | chmod o-rwx"),
        ("x\n", 0o602, "is open to everybody (mode 0602)"),
        ("", 0o600, "is empty | write the secret into it"),
        ("\n", 0o600, "is empty"),
        ("a\nb\n", 0o600, "holds more than one line"),
        (&"x".repeat(20_000), 0o600, "longer than a secret can be"),
    ];
    for (text, mode, want) in cases {
        let etc = Etc::new();
        etc.write("admin", text, mode);
        assert_said(want, &outcome(etc.manager(GOOD)).0, &[want]);
    }
    let etc = Etc::new();
    let text = GOOD.replace("/etc/mha/admin", "/etc/mha/none").replace("/etc/mha/repl", "/etc/mha");
    let error = etc.manager(&text).unwrap_err().to_string();
    assert!(error.contains("manager.toml:5:") && error.contains("none: No such file"), "{error}");
    assert!(error.contains("manager.toml:6:") && error.contains("is no regular file"), "{error}");
    let text = GOOD.replace("{ file = \"/etc/mha/admin\" }", "{ env = \"MHA_TEST_NOT_SET\" }");
    assert_said("env", &outcome(etc.manager(&text)).0, &["the environment has no variable MHA_TEST_NOT_SET"]);
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let etc = Etc::new();
    let password = "password = { file = \"/etc/mha/admin\" }";
    for written in [
        "password = \"hunter2\"",
        "pasword = \"hunter2\"",
        "password = [\"hunter2\"]",
        "password = { flie = \"hunter2\" }",
        "password = 'hunter2",
        "password = hunter2",
        "passwd = hunter2",
    ] {
        let error = etc.manager(&GOOD.replace(password, written)).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{written}:\n{error}");
        assert!(error.contains("manager.toml:5:"), "{written}:\n{error}");
        let error = etc.agent(&GOOD_AGENT.replace(password, written)).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{written}:\n{error}");
    }
    let several = GOOD.replace(password, "password = \"\"\"\nhunter2\n\"x\" = \\q \"\"\" ");
    let error = etc.manager(&several).unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
    let url = "[manager]\non_event = { webhook = \"ftp://hunter2\" }";
    let error = etc.manager(&GOOD.replace("[manager]", url)).unwrap_err().to_string();
    assert!(error.contains("is no URL") && !error.contains("hunter2"), "{error}");
}

#[test]
fn debug_shows_no_secret() {
    let etc = Etc::new();
    let text = GOOD.replace(
        "[manager]",
        "[manager]\ntoken = { file = \"/etc/mha/token\" }\non_event = { webhook = \"https://chat.example/hunter2\" }",
    );
    let (config, _) = etc.manager(&text).unwrap();
    assert!(matches!(config.on_event, Some(OnEvent::Webhook(_))));
    assert!(!format!("{config:?}").contains("hunter2"));
    let (config, _) = etc.agent(GOOD_AGENT).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_reload_tells_what_changes() {
    let etc = Etc::new();
    let (old, _) = etc.manager(GOOD).unwrap();
    assert!(difference(&old, &old).is_empty());
    etc.write("repl", "changed-hunter2\n", 0o600);
    let text = GOOD
        .replace("8420", "8430")
        .replace("mode = \"auto\"", "mode = \"manual\"\nsilence = \"4s\"")
        .replace("10.0.0.100/24", "10.0.0.101/24")
        .replace("host = \"db2\"", "host = \"db2\"\npromotion = \"prefer\"")
        .replace("host = \"db3\"", "host = \"db4\"");
    let (new, _) = etc.manager(&text).unwrap();
    let told = difference(&old, &new);
    assert_eq!(
        told,
        [
            "manager: listen 127.0.0.1:8420 becomes 127.0.0.1:8430 (after a restart)",
            "cluster orders: mode auto becomes manual",
            "cluster orders, db2: promotion allow becomes prefer",
            "cluster orders: instance db3 removed",
            "cluster orders: instance db4 added",
            "cluster orders: vip 10.0.0.100/24 on eth0 becomes 10.0.0.101/24 on eth0",
            "cluster orders: voters db1 at http://db1:8421, db2 at http://db2:8421, db3 at http://db3:8421 becomes \
             db1 at http://db1:8421, db2 at http://db2:8421, db4 at http://db4:8421",
            "cluster orders: silence 3s becomes 4s",
            "cluster orders: replication password changed",
        ]
    );
    let (other, _) = etc.manager(&GOOD.replace("\"orders\"", "\"bills\"")).unwrap();
    assert_eq!(difference(&old, &other)[..1], ["cluster orders: no longer watched"]);
    assert_eq!(difference(&old, &other)[1..], ["cluster bills: new, 3 instances"]);
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let error = load_manager(std::path::Path::new("/nonexistent/manager.toml")).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read the configuration /nonexistent/manager.toml: No such file"),
        "{error}"
    );
}
