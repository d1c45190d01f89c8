//! A primary that came to lead while a replica was away, and is lost when that one is back and has not caught up: what was acknowledged
//! before it led is on it alone, and nobody leads until it is back.

use crate::lab::{Lab, SOON, let_start, now_us};
use crate::{cluster, seconds};

#[test]
fn mariadb_one_that_has_not_caught_up_does_not_lead() {
    one_that_has_not_caught_up_does_not_lead("mariadb");
}

#[test]
fn mysql_one_that_has_not_caught_up_does_not_lead() {
    one_that_has_not_caught_up_does_not_lead("mysql");
}

fn one_that_has_not_caught_up_does_not_lead(flavor: &str) {
    let Some(mut lab) = cluster(flavor) else { return };
    lab.run(&["down-link", "db3"]);
    let before = lab.count(1);
    lab.wait("writes that db3 never saw", SOON, |lab| lab.count(1) > before + 200);
    let fault = now_us();
    // Its host stays, to tell that db2's is gone; its server would be back and acknowledge in a second.
    let kept_down = lab.keep_down("db1");
    lab.run(&["kill9", "db1"]);
    lab.wait("db2 leads", SOON, |lab| lab.primary().as_deref() == Some("db2"));
    lab.run(&["port", "db3", "db2", "3306"]);
    lab.run(&["up-link", "db3"]);
    // A start that is waited for comes first.
    lab.wait("db3 is to follow db2, and does not reach it", SOON * 2, |lab| {
        let so = |db3: serde_json::Value| db3["source"] == "db2" && db3["receiver"] == "connecting";
        lab.member("db3").is_some_and(so)
    });
    let (_, shown) = lab.attempt(&["ctl", "status"]);
    lab.run(&["down-link", "db2"]);
    assert!(shown.contains("if its host did: nobody would lead"), "{shown}");
    lab.wait("it is said why nobody leads", SOON, |lab| {
        lab.sentence().contains("when it began to lead, and whoever could lead now has not")
    });
    seconds(5.0);
    assert_eq!(lab.primary().as_deref(), Some("db2"), "{}", lab.log());
    println!("{flavor}: {}", lab.sentence());

    lab.run(&["heal"]);
    let_start(kept_down);
    lab.wait("all are well again", SOON * 2, Lab::is_healthy);
    assert_eq!(lab.primary().as_deref(), Some("db2"), "{}", lab.log());
    let found = lab.check("db2", fault, 1);
    assert_eq!((&found["lost"], &found["duplicated"]), (&0.into(), &0.into()), "{found}");
}
