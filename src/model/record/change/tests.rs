use std::collections::BTreeSet;

use chrono::TimeDelta;

use super::*;
use crate::model::instance::Flavor;
use crate::model::wishes::Threads;

fn db(host: &str) -> InstanceId {
    InstanceId::new(host, 3306)
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn set(text: &str) -> Option<GtidSet> {
    Some(GtidSet::parse(Flavor::MariaDb, text).unwrap())
}

/// db1 leads generation `generation`, db2 acknowledges.
fn leads(primary: &str, generation: u64, ackers: &[&str]) -> Registration {
    Registration {
        primary: db(primary),
        generation: Generation(generation),
        ballot: Ballot { number: 4, manager: "m1".to_owned() },
        ackers: ackers.iter().map(|acker| db(acker)).collect(),
        acks: u32::from(!ackers.is_empty()),
        degraded: None,
        automatic: false,
        base: set("0-1-100"),
    }
}

fn changed(before: Option<&ClusterRecord>, change: RecordChange, seconds: i64) -> ClusterRecord {
    let after = ClusterRecord::apply(before, &change, at(seconds)).unwrap();
    assert_eq!(after.revision, before.map_or(0, |before| before.revision) + 1, "{change:?}");
    after
}

fn registered(before: Option<&ClusterRecord>, new: Registration, seconds: i64) -> ClusterRecord {
    changed(before, RecordChange::Register(Box::new(new)), seconds)
}

fn adopted() -> ClusterRecord {
    registered(None, leads("db1", 1, &["db2"]), 10)
}

fn park(instance: &str, why: &str) -> RecordChange {
    RecordChange::Park { instance: db(instance), why: why.to_owned() }
}

fn parked(record: &ClusterRecord) -> Vec<(&str, &str)> {
    record.parked.iter().map(|parked| (parked.instance.host.as_str(), parked.why.as_str())).collect()
}

#[test]
fn the_first_registration_adopts_the_cluster() {
    let record = adopted();
    assert_eq!((record.primary, record.generation, record.acks), (db("db1"), Generation(1), 1));
    assert_eq!((record.ackers, record.base, record.adopted_at), (vec![db("db2")], set("0-1-100"), at(10)));
    assert_eq!(record.ballot.number, 4);
}

#[test]
fn nothing_else_begins_a_record() {
    let wish = Wish::Run;
    let changes = [
        park("db2", "broken"),
        RecordChange::Override { instance: db("db2"), wish },
        RecordChange::Release { instance: db("db2"), method: None, donor: None },
        RecordChange::CallOffRebuild { instance: db("db2"), why: "called off".to_owned() },
        RecordChange::ForgetRemedies { instances: vec![db("db2")] },
        RecordChange::AcknowledgeFailovers,
        RecordChange::Votes { without: vec!["db2".to_owned()] },
        RecordChange::Events { wanted: None },
    ];
    for change in changes {
        assert_eq!(ClusterRecord::apply(None, &change, at(1)), Err(NotAdopted), "{change:?}");
    }
}

#[test]
fn a_base_is_replaced_only_where_acknowledgements_promise_something_else() {
    let first = adopted();
    let later = |record: &ClusterRecord, new: Registration| {
        registered(Some(record), Registration { base: set("0-1-200"), ..new }, 20).base
    };
    assert_eq!(later(&first, leads("db1", 1, &["db2", "db3"])), set("0-1-100"), "one more acker");
    assert_eq!(later(&first, leads("db2", 2, &["db1"])), set("0-1-200"), "another primary");
    let degraded = Registration { degraded: Some("no acker".to_owned()), acks: 0, ..leads("db1", 1, &[]) };
    let unkept = registered(Some(&first), degraded.clone(), 20);
    assert_eq!(unkept.base, set("0-1-100"));
    assert_eq!(later(&unkept, degraded), set("0-1-100"), "still degraded");
    assert_eq!(later(&unkept, leads("db1", 1, &["db2"])), set("0-1-200"), "lossless again");
    let fewer = leads("db1", 1, &["db2", "db3"]);
    let both = registered(Some(&adopted()), fewer, 15);
    let left = Registration { base: set("0-1-150"), ..leads("db1", 1, &["db3"]) };
    assert_eq!(
        registered(Some(&both), left, 20).base,
        set("0-1-150"),
        "what the one that left had is on the primary"
    );
    let more = Registration { acks: 2, base: set("0-1-160"), ..leads("db1", 1, &["db2", "db3"]) };
    assert_eq!(registered(Some(&both), more, 20).base, set("0-1-160"), "what one acknowledged is not on two");
    let unknown = registered(Some(&unkept), Registration { base: None, ..leads("db1", 1, &["db2"]) }, 30);
    assert_eq!(unknown.base, None, "nobody could tell");
}

#[test]
fn only_an_automatic_change_of_primary_counts_against_the_budget() {
    let mut record = adopted();
    let automatic = |primary, generation| Registration { automatic: true, ..leads(primary, generation, &[]) };
    record = registered(Some(&record), automatic("db1", 1), 20);
    record = registered(Some(&record), leads("db2", 2, &[]), 30);
    assert!(record.failovers.is_empty());
    for generation in 3..=22 {
        let primary = if generation % 2 == 0 { "db2" } else { "db1" };
        record = registered(Some(&record), automatic(primary, generation), 100 + generation as i64);
    }
    assert_eq!((record.failovers.len(), record.failovers[0]), (16, at(107)), "the newest sixteen");
    assert!(changed(Some(&record), RecordChange::AcknowledgeFailovers, 200).failovers.is_empty());
}

#[test]
fn a_span_without_the_promise_begins_once_and_ends_with_it() {
    let degraded =
        |why: &str| Registration { acks: 0, degraded: Some(why.to_owned()), ..leads("db1", 1, &[]) };
    let first = registered(Some(&adopted()), degraded("db2 is gone"), 20);
    let second = registered(Some(&first), degraded("db3 is gone too"), 30);
    assert_eq!(second.degraded, Some(Degraded { since: at(20), why: "db2 is gone".to_owned() }));
    assert_eq!(registered(Some(&second), leads("db1", 1, &["db2"]), 40).degraded, None);
}

#[test]
fn a_primary_is_neither_parked_nor_overridden() {
    let mut record = changed(Some(&adopted()), park("db2", "extra transactions"), 20);
    let stop = Wish::Stop { threads: Threads::Both, by: "anna".to_owned() };
    record = changed(Some(&record), RecordChange::Override { instance: db("db2"), wish: stop }, 21);
    record = changed(Some(&record), park("db3", "broken"), 22);
    let leads = registered(Some(&record), leads("db2", 2, &["db3"]), 30);
    assert_eq!(parked(&leads), [("db3", "broken")]);
    assert_eq!(leads.wishes.stopped(&db("db2")), None);
}

#[test]
fn who_led_while_less_was_promised_is_doubted_until_it_follows() {
    let unsure = Registration { acks: 0, degraded: Some("no acker".to_owned()), ..leads("db1", 1, &[]) };
    let degraded = registered(Some(&adopted()), unsure, 20);
    assert_eq!(degraded.doubted, [db("db1")]);
    let replaced =
        registered(Some(&degraded), Registration { automatic: true, ..leads("db2", 2, &["db3"]) }, 30);
    assert_eq!(replaced.doubted, [db("db1")]);
    assert_eq!(registered(Some(&replaced), leads("db2", 2, &["db1", "db3"]), 40).doubted, []);
}

#[test]
fn who_led_asynchronously_is_doubted_also_where_nobody_moved_the_primary() {
    let asynchronous = registered(None, Registration { acks: 0, ..leads("db1", 1, &[]) }, 10);
    let next = Registration { acks: 0, automatic: true, ..leads("db2", 2, &[]) };
    let replaced = registered(Some(&asynchronous), next, 20);
    assert_eq!(replaced.doubted, [db("db1")]);
    // Lossless is configured meanwhile, before db1 returns.
    let armed = registered(Some(&replaced), leads("db2", 2, &["db3"]), 30);
    assert!(armed.doubt_about(&db("db1")).is_some());
    assert!(armed.doubt_about(&db("db3")).is_none());
    let follows = registered(Some(&armed), leads("db2", 2, &["db3", "db1"]), 40);
    assert!(follows.doubt_about(&db("db1")).is_none());
}

#[test]
fn who_led_before_is_known_also_when_it_follows_again() {
    let next = registered(Some(&adopted()), leads("db2", 2, &["db1"]), 20);
    assert_eq!(next.former, [db("db1")]);
    let back = registered(Some(&next), leads("db1", 3, &["db2"]), 30);
    let again = registered(Some(&back), leads("db2", 4, &["db1"]), 40);
    assert_eq!(again.former, [db("db1"), db("db2")]);
}

#[test]
fn an_adoption_without_the_promise_is_doubted_too() {
    let unsure = Registration { acks: 0, degraded: Some("no acker".to_owned()), ..leads("db1", 1, &[]) };
    assert_eq!(registered(None, unsure, 10).doubted, [db("db1")]);
}

#[test]
fn parked_again_is_parked_once_for_the_newer_reason() {
    let once = changed(Some(&adopted()), park("db2", "extra transactions"), 20);
    let twice = changed(Some(&once), park("db2", "does not start"), 30);
    assert_eq!((parked(&twice), twice.parked[0].since), (vec![("db2", "does not start")], at(30)));
}

#[test]
fn a_released_member_is_brought_back_as_asked() {
    let record = changed(Some(&adopted()), park("db2", "extra transactions"), 20);
    let release =
        RecordChange::Release { instance: db("db2"), method: Some(Remedy::Rebuild), donor: Some(db("db3")) };
    let released = changed(Some(&record), release, 30);
    assert!(parked(&released).is_empty() && released.wishes.is_to_be_rebuilt(&db("db2")));
    assert_eq!(released.wishes.donor(&db("db2")), Some(&db("db3")));
    let forgotten = RecordChange::ForgetRemedies { instances: vec![db("db2"), db("db3")] };
    assert_eq!(changed(Some(&released), forgotten, 40).wishes.remedy(&db("db2")), None);
}

#[test]
fn a_rebuild_that_is_called_off_leaves_the_member_to_a_person() {
    let asked = |instance: &str| RecordChange::Release {
        instance: db(instance),
        method: Some(Remedy::Rebuild),
        donor: None,
    };
    let off = |instance: &str| RecordChange::CallOffRebuild {
        instance: db(instance),
        why: "called off".to_owned(),
    };
    let record = changed(Some(&adopted()), asked("db2"), 20);
    let record = changed(Some(&record), off("db2"), 30);
    assert_eq!((parked(&record), record.wishes.remedy(&db("db2"))), (vec![("db2", "called off")], None));
    let primary = changed(Some(&changed(Some(&record), asked("db1"), 40)), off("db1"), 50);
    assert_eq!((parked(&primary), primary.wishes.remedy(&db("db1"))), (vec![("db2", "called off")], None));
}

#[test]
fn what_is_wanted_of_events_is_replaced_in_whole() {
    let wanted = EventsWanted { generation: Generation(1), scheduler: true, idle: BTreeSet::new() };
    let record = changed(Some(&adopted()), RecordChange::Events { wanted: Some(wanted.clone()) }, 20);
    assert_eq!(record.events, Some(wanted));
    assert_eq!(changed(Some(&record), RecordChange::Events { wanted: None }, 30).events, None);
}
