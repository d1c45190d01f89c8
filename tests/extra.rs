//! Extra transactions on real servers of both families: copied out of the log, shown, taken back to the byte, the history set back;
//! and everything that is refused, with nothing changed. `CI` set: a missing server is a failure.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mha::agent::host::extra::{Contents, copy, read, sha256};
use mha::agent::host::tail::{Limits, scan};
use mha::agent::host::values::changes;
use mha::model::extra::Change;
use mha::model::gtid::GtidSet;
use mha::model::instance::Flavor;
use mha::mysql::control::{HEARTBEAT_SCHEMA, Undo, reset, undo};
use mha::mysql::probe::report;
use mha::mysql::{Connection, ControlError};
use support::{Server, within};

/// Every type whose length is not fixed, and some whose is.
const TABLES: &str = "CREATE DATABASE app;
CREATE TABLE app.many (id INT PRIMARY KEY, a VARCHAR(300), b VARCHAR(10), c CHAR(255) CHARACTER SET utf8mb4, d DECIMAL(20,7), e FLOAT,
 f DOUBLE, g BIT(12), h ENUM('x','y','z'), i SET('p','q'), j TIMESTAMP(3) NULL, k DATETIME(6), l TIME(1), m YEAR, n TINYBLOB,
 o LONGTEXT, p JSON, q BIGINT UNSIGNED, r MEDIUMINT, s DATE, t GEOMETRY, u BINARY(8), v VARBINARY(500), UNIQUE KEY (q)) ENGINE=InnoDB;
CREATE TABLE app.keyless (id INT, s TEXT) ENGINE=InnoDB;
CREATE TABLE app.parent (id INT PRIMARY KEY) ENGINE=InnoDB;
CREATE TABLE app.child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES app.parent (id) ON DELETE CASCADE) ENGINE=InnoDB;
INSERT INTO app.keyless VALUES (1,'one'),(1,'one'),(2,NULL);
INSERT INTO app.many (id,a,q) VALUES (1,'kept',1),(2,'changed',2),(3,'deleted',3);
INSERT INTO app.parent VALUES (1);
INSERT INTO app.child VALUES (1,1);
INSERT INTO mha.heartbeat VALUES (1, '2026-01-02 03:04:05', 'db1', 1)";

/// Each kind of change, over several tables in one transaction and over one row in several.
const CHANGES: &str = "INSERT INTO app.many VALUES (10, REPEAT('ä', 290), 'b', REPEAT('c', 250), -1234567890123.1234567, 1.1, 2.2e300,
 b'101010101010', 'z', 'p,q', '2026-03-04 05:06:07.891', '2026-03-04 05:06:07.891234', '-12:34:56.7', 2026, x'0001FF',
 REPEAT('long', 30000), '{\"a\": [1, 2.5, null, \"x\"]}', 18446744073709551615, -8388608, '0001-01-01', POINT(1, 2), x'0102', x'00');
INSERT INTO app.many (id) VALUES (11), (12);
UPDATE app.many SET a='again', q=NULL WHERE id=2;
UPDATE app.many SET a='and again', q=3000 WHERE id=2;
DELETE FROM app.many WHERE id IN (3, 11);
BEGIN; UPDATE app.keyless SET id=id+10; DELETE FROM app.keyless WHERE id=12; INSERT INTO app.many (id, q) VALUES (3, 3); COMMIT;
UPDATE app.many SET id=id+100 ORDER BY id DESC;
UPDATE mha.heartbeat SET generation=7, at='2027-01-02 03:04:05'";

const SUMS: &str = "SELECT SHA2(GROUP_CONCAT(CONCAT_WS('|', id, a, b, c, d, e, f, g+0, h, i, j, k, l, m, HEX(n), o, p, q, r, s, HEX(t), HEX(u), \
 HEX(v)) ORDER BY id), 256) AS sum FROM app.many";

async fn on_both(test: impl AsyncFn(Flavor)) {
    test(Flavor::MariaDb).await;
    test(Flavor::MySql).await;
}

async fn run(conn: &mut Connection, sql: &str) {
    conn.query(sql, within(20.0)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn history(conn: &mut Connection) -> GtidSet {
    report(conn, within(10.0)).await.unwrap().executed
}

/// All rows, as text.
async fn state(conn: &mut Connection) -> Vec<String> {
    let mut all = Vec::new();
    let keyless = "SELECT CONCAT_WS('|', id, s, s IS NULL) AS sum FROM app.keyless ORDER BY id, s";
    let heartbeat = "SELECT CONCAT_WS('|', id, at, writer, generation) AS sum FROM mha.heartbeat ORDER BY id";
    let rest = "SELECT CONCAT_WS('|', p.id, c.id) AS sum FROM app.parent p LEFT JOIN app.child c ON c.parent=p.id ORDER BY p.id";
    for sql in [SUMS, keyless, heartbeat, rest] {
        let rows = conn.query(sql, within(10.0)).await.unwrap();
        all.extend(rows.iter().map(|row| row.text_or_empty("sum").to_owned()));
        all.push("--".to_owned());
    }
    all
}

fn tool(flavor: Flavor) -> Vec<String> {
    let prefix = std::env::var("MHA_MYSQL_PREFIX").unwrap_or_else(|_| "/opt/mha-lab/mysql".into());
    match flavor {
        Flavor::MariaDb => vec!["mariadb-binlog".to_owned()],
        Flavor::MySql => vec![format!("{prefix}/bin/mysqlbinlog")],
    }
}

/// A server with the tables, its first history, and a place for what is saved.
struct Returned {
    server: Server,
    flavor: Flavor,
    keep: GtidSet,
    saved: PathBuf,
    _folder: tempfile::TempDir,
}

impl Returned {
    async fn with(flavor: Flavor, more: &[&str]) -> Option<(Self, Connection)> {
        let options = [&["--binlog-format=ROW", "--character-set-server=utf8mb4"], more].concat();
        let server = Server::start(flavor, 7, &options).await?;
        let mut conn = server.connect().await;
        run(&mut conn, "SET SESSION sql_mode='', SESSION group_concat_max_len=10000000").await;
        run(&mut conn, &HEARTBEAT_SCHEMA.join("; ")).await;
        run(&mut conn, TABLES).await;
        let keep = history(&mut conn).await;
        let folder = tempfile::tempdir().unwrap();
        let saved = folder.path().join("extra.binlog");
        Some((Self { server, flavor, keep, saved, _folder: folder }, conn))
    }

    /// Copies what is beyond the first history, as the agent does.
    async fn save(&self, conn: &mut Connection) -> (Contents, String) {
        let extra = history(conn).await.minus(&self.keep);
        let index = self.server.data().join("binlog.index");
        let tail = scan(self.flavor, &index, None, Limits { files: 9, ..Limits::default() }).await.unwrap();
        let ours = tail
            .transactions
            .iter()
            .filter(|transaction| extra.contains(&GtidSet::single(self.flavor, &transaction.gtid).unwrap()));
        let ours: Vec<_> = ours.cloned().collect();
        let (_, sum) = copy(&tail, &ours, &self.saved).unwrap();
        assert_eq!(sha256(&self.saved).unwrap(), sum);
        (read(self.flavor, &self.saved).unwrap(), sum)
    }

    async fn undo(&self, contents: &Contents, mark: &str) -> Result<(), ControlError> {
        let tables: Vec<_> = contents.tables.keys().cloned().collect();
        let with = Undo { format: &contents.format, events: &contents.inverse, tables: &tables, mark };
        undo(self.server.connect().await, &with, within(20.0)).await
    }
}

#[tokio::test]
async fn rows_come_back_to_the_byte_and_the_history_with_them() {
    on_both(async |flavor| {
        let Some((returned, mut conn)) = Returned::with(flavor, &[]).await else { return };
        let before = state(&mut conn).await;
        run(&mut conn, CHANGES).await;
        // The log goes on in another file, as after a crash.
        run(&mut conn, "FLUSH BINARY LOGS; INSERT INTO app.parent VALUES (7)").await;
        run(&mut conn, "DELETE FROM app.parent WHERE id=7").await;
        assert_ne!(state(&mut conn).await, before);
        // A key of which rows hang would make it refused.
        run(&mut conn, "SET SESSION sql_log_bin=0; DROP TABLE app.child").await;
        let (contents, mark) = returned.save(&mut conn).await;
        assert_eq!((contents.transactions, &contents.obstacle, contents.benign), (10, &None, false));
        let after = history(&mut conn).await;
        drop(conn);

        // Twice is once: the second finds the mark of the first.
        returned.undo(&contents, &mark).await.unwrap();
        returned.undo(&contents, &mark).await.unwrap();
        let mut conn = returned.server.connect().await;
        run(&mut conn, "SET SESSION sql_mode='', SESSION group_concat_max_len=10000000").await;
        assert_eq!(history(&mut conn).await, after, "nothing of it was logged");
        for _ in 0..2 {
            reset(returned.server.connect().await, &returned.keep, within(20.0)).await.unwrap();
            assert_eq!(history(&mut conn).await, returned.keep);
        }
        run(&mut conn, "SET SESSION sql_log_bin=0; CREATE TABLE app.child (id INT PRIMARY KEY, parent INT); INSERT INTO app.child VALUES (1,1)").await;
        assert_eq!(state(&mut conn).await, before, "{flavor}");
    })
    .await;
}

#[tokio::test]
async fn what_they_changed_is_shown() {
    on_both(async |flavor| {
        let Some((returned, mut conn)) = Returned::with(flavor, &[]).await else { return };
        run(&mut conn, "UPDATE app.keyless SET s='two' WHERE id=2; ALTER TABLE app.keyless ADD x INT; DELETE FROM app.parent").await;
        let (contents, _) = returned.save(&mut conn).await;
        let why = contents.obstacle.clone().unwrap_or_default();
        assert!(why.contains("ALTER TABLE") && contents.inverse.is_empty(), "{why}");
        let (shown, trouble) =
            changes(&tool(flavor), &returned.saved, &contents.groups, Duration::from_secs(10)).await;
        assert_eq!(trouble, None);
        let shown: Vec<Change> = shown.into_iter().flatten().collect();
        let texts: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "updated  app.keyless (2, NULL) -> (2, 'two')", "{texts:?}");
        assert_eq!(texts[1], "statement ALTER TABLE app.keyless ADD x INT");
        // Newer servers log what a foreign key deletes with it, too.
        assert!(texts[2..].iter().any(|text| text == "deleted  app.parent (1)"), "{texts:?}");
        // Without the tool the changes are there, their values not.
        let missing = ["/nowhere/binlog".to_owned()];
        let (bare, trouble) =
            changes(&missing, &returned.saved, &contents.groups, Duration::from_secs(10)).await;
        assert_eq!(bare.concat().len(), shown.len());
        assert!(trouble.is_some_and(|why| why.contains("/nowhere/binlog")));
    })
    .await;
}

#[tokio::test]
async fn only_heartbeats_are_known_as_such() {
    on_both(async |flavor| {
        for format in ["ROW", "STATEMENT"] {
            let option = format!("--binlog-format={format}");
            let Some((returned, mut conn)) = Returned::with(flavor, &[&option]).await else { return };
            mha::mysql::control::write_heartbeat(
                &mut conn,
                "db'1",
                mha::model::ballot::Generation(3),
                within(5.0),
            )
            .await
            .unwrap();
            let (contents, _) = returned.save(&mut conn).await;
            assert!(contents.benign, "{flavor} {format}: {contents:?}");
            assert_eq!(contents.obstacle.is_none(), format == "ROW");
            run(&mut conn, "INSERT INTO app.parent VALUES (5)").await;
            assert!(!returned.save(&mut conn).await.0.benign);
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_taken_back_exactly_changes_nothing() {
    on_both(async |flavor| {
        let Some((returned, mut conn)) = Returned::with(flavor, &[]).await else { return };
        run(&mut conn, "INSERT INTO app.keyless VALUES (77, 'x'); INSERT INTO app.many (id) VALUES (77)")
            .await;
        let (contents, mark) = returned.save(&mut conn).await;
        // Somebody changed one of the rows since, unlogged.
        run(
            &mut conn,
            "SET SESSION sql_log_bin=0; UPDATE app.keyless SET s='y' WHERE id=77; SET SESSION sql_log_bin=1",
        )
        .await;
        let before = state(&mut conn).await;
        let refused = returned.undo(&contents, &mark).await.unwrap_err();
        assert!(refused.is_refusal(), "{refused}");
        assert_eq!(state(&mut conn).await, before, "{flavor}: all or nothing");

        run(&mut conn, "DELETE FROM app.parent").await;
        let (contents, mark) = returned.save(&mut conn).await;
        let refused = returned.undo(&contents, &mark).await.unwrap_err();
        assert!(
            refused.is_refusal() && refused.to_string().contains("foreign key of app.child"),
            "{refused}"
        );

        run(
            &mut conn,
            "SET SESSION sql_log_bin=0; DROP TABLE app.child; ALTER TABLE app.parent ENGINE=MyISAM",
        )
        .await;
        let refused = returned.undo(&contents, &mark).await.unwrap_err();
        assert!(refused.to_string().contains("not InnoDB"), "{refused}");

        if flavor == Flavor::MariaDb {
            run(
                &mut conn,
                "SET SESSION sql_log_bin=0; ALTER TABLE app.parent ENGINE=InnoDB; ALTER TABLE app.parent ADD SYSTEM VERSIONING",
            )
            .await;
            let refused = returned.undo(&contents, &mark).await.unwrap_err();
            assert!(refused.to_string().contains("system-versioned"), "{refused}");
        }
    })
    .await;
    let option = "--binlog-row-image=MINIMAL";
    on_both(async |flavor| {
        let Some((returned, mut conn)) = Returned::with(flavor, &[option]).await else { return };
        run(&mut conn, "UPDATE app.many SET a='new' WHERE id=1").await;
        let (contents, _) = returned.save(&mut conn).await;
        assert!(contents.obstacle.unwrap_or_default().contains("binlog_row_image"));
        assert!(Path::new(&returned.saved).exists());
    })
    .await;
}
