use super::*;

fn of(flavor: Flavor, version: &str) -> Dialect {
    Dialect::new(flavor, version.parse().unwrap())
}

fn change(dialect: Dialect, use_gtid: bool) -> String {
    let source = InstanceId::new("db'1\\", 3307);
    let account = Account { user: "re'pl".to_owned(), password: "p\\'; DROP".into() };
    let heartbeat_every = Duration::from_millis(750);
    dialect.change_source(&ChannelChange { source: &source, account: &account, heartbeat_every, use_gtid })
}

#[test]
fn each_server_hears_its_own_words() {
    let mariadb = of(Flavor::MariaDb, "10.11.6-MariaDB");
    assert_eq!(mariadb.show_replicas(), "SHOW ALL SLAVES STATUS");
    assert_eq!(mariadb.stop(Threads::Receiver), "STOP SLAVE IO_THREAD");
    assert_eq!(mariadb.show_binlog_status(), "SHOW MASTER STATUS");
    for (version, show, stop, log) in [
        ("5.7.44", "SHOW SLAVE STATUS", "STOP SLAVE SQL_THREAD FOR CHANNEL ''", "SHOW MASTER STATUS"),
        ("8.0.36", "SHOW REPLICA STATUS", "STOP REPLICA SQL_THREAD FOR CHANNEL ''", "SHOW MASTER STATUS"),
        ("8.4.3", "SHOW REPLICA STATUS", "STOP REPLICA SQL_THREAD FOR CHANNEL ''", "SHOW BINARY LOG STATUS"),
    ] {
        let dialect = of(Flavor::MySql, version);
        assert_eq!(dialect.show_replicas(), show);
        assert_eq!(dialect.stop(Threads::Applier), stop);
        assert_eq!(dialect.show_binlog_status(), log);
    }
}

#[test]
fn hostile_values_stay_inside_their_quotes() {
    let hostile = r"HOST='db\'1\\', MASTER_PORT=3307, MASTER_USER='re\'pl', MASTER_PASSWORD='p\\\'; DROP', ";
    assert_eq!(
        change(of(Flavor::MariaDb, "10.6.1"), true),
        format!(
            "CHANGE MASTER TO MASTER_{hostile}MASTER_HEARTBEAT_PERIOD=0.750, MASTER_CONNECT_RETRY=1, \
             MASTER_USE_GTID=slave_pos"
        )
    );
    assert!(change(of(Flavor::MySql, "5.7.44"), true).contains("MASTER_AUTO_POSITION=1"));
    assert!(!change(of(Flavor::MySql, "5.7.44"), true).contains("PUBLIC_KEY"));
    let new = change(of(Flavor::MySql, "9.7.4"), false);
    assert!(new.starts_with("CHANGE REPLICATION SOURCE TO SOURCE_HOST=") && !new.contains("AUTO_POSITION"));
    assert!(new.contains("GET_SOURCE_PUBLIC_KEY=1"));
    assert_eq!(literal("a\nb\0"), "'a\\nb\\0'");
}

#[test]
fn semi_sync_words_of_either_generation() {
    let old = SemiSyncWords::of(["rpl_semi_sync_master_enabled", "rpl_semi_sync_slave_enabled"].into_iter());
    let arm = old.arm(Duration::from_millis(7), Some(2)).unwrap();
    assert!(arm.contains("master_wait_for_slave_count=2") && arm.contains("master_wait_no_slave=1"), "{arm}");
    let new = SemiSyncWords::of(["rpl_semi_sync_source_enabled"].into_iter());
    assert!(new.arm(Duration::from_millis(7), None).unwrap().contains("source_wait_no_replica=1"));
    assert_eq!(new.enable(Side::Replica, true), None);
    assert_eq!(today("Relay_Master_Log_File"), "relay_source_log_file");
}
