use chrono::DateTime;

use super::*;
use crate::decide::plan::PlanKind;
use crate::execute::Outcome;
use crate::execute::journal::What;
use crate::model::ballot::Generation;
use crate::model::instance::InstanceId;

fn recovery(id: &str) -> Recovery {
    Recovery {
        id: id.to_owned(),
        cluster: ClusterName("orders".to_owned()),
        title: "failover".to_owned(),
        about: InstanceId::new("db1", 3306),
        kind: PlanKind::Isolate,
        ask: None,
        began_at: DateTime::UNIX_EPOCH,
        entries: Vec::new(),
    }
}

fn entry(what: What) -> Entry {
    Entry { at: DateTime::UNIX_EPOCH, after: Default::default(), what }
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let orders = ClusterName("orders".to_owned());
    let mut record = ClusterRecord::new(InstanceId::new("db1", 3306), Generation(7), DateTime::UNIX_EPOCH);
    (record.revision, record.acks) = (1, 1);
    let id = {
        let store = Store::open(dir.path()).unwrap();
        store.save_record(&orders, &record).await.unwrap();
        let mut ballot = store.ballot().await.unwrap();
        ballot.number = 4;
        store.save_ballot(&ballot).await.unwrap();
        ballot
    };
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.record(&orders).await.unwrap(), Some(record));
    assert_eq!(store.ballot().await.unwrap(), id);
    assert_eq!(store.record(&ClusterName("other".to_owned())).await.unwrap(), None);
}

#[tokio::test]
async fn a_record_made_from_an_older_revision_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let orders = ClusterName("orders".to_owned());
    let at = |revision, acks| {
        let new = ClusterRecord::new(InstanceId::new("db1", 3306), Generation(7), DateTime::UNIX_EPOCH);
        ClusterRecord { revision, acks, ..new }
    };
    let refused = |result: Result<(), StoreError>| match result {
        Err(StoreError::StaleRecord { stored, base, .. }) => (stored, base),
        other => panic!("{other:?}"),
    };
    // A store that knows nothing of the cluster takes its first record and no later one.
    assert_eq!(refused(store.save_record(&orders, &at(3, 0)).await), (0, 2));
    assert_eq!(refused(store.save_record(&orders, &at(0, 0)).await), (0, 0));
    store.save_record(&orders, &at(1, 0)).await.unwrap();
    // Two changes of one record: the second was made from what is no longer so.
    store.save_record(&orders, &at(2, 1)).await.unwrap();
    assert_eq!(refused(store.save_record(&orders, &at(2, 9)).await), (2, 1));
    assert_eq!(refused(store.save_record(&orders, &at(4, 9)).await), (2, 3));
    assert_eq!(store.record(&orders).await.unwrap(), Some(at(2, 1)));
    store.save_record(&orders, &at(3, 2)).await.unwrap();
}

#[tokio::test]
async fn a_record_of_an_earlier_version_has_no_revision_and_can_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    let orders = ClusterName("orders".to_owned());
    let mut record = ClusterRecord::new(InstanceId::new("db1", 3306), Generation(7), DateTime::UNIX_EPOCH);
    {
        let store = Store::open(dir.path()).unwrap();
        record.revision = 1;
        store.save_record(&orders, &record).await.unwrap();
    }
    let database = rusqlite::Connection::open(dir.path().join("mha.sqlite")).unwrap();
    database.execute("UPDATE record SET json = json_remove(json, '$.revision')", []).unwrap();
    drop(database);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.record(&orders).await.unwrap().unwrap().revision, 0);
    store.save_record(&orders, &record).await.unwrap();
}

#[tokio::test]
async fn one_manager_has_a_store_and_a_second_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let second = Store::open(dir.path()).unwrap_err().to_string();
    assert!(second.contains("another manager of this host uses this store"), "{second}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_recovery_is_unfinished_until_its_end_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let orders = ClusterName("orders".to_owned());
    store.begin(&recovery("r1")).await.unwrap();
    let stage = entry(What::Stage { plan: PlanKind::Isolate, index: 0, name: "isolate".to_owned() });
    store.append("r1", vec![stage.clone(), stage]).await.unwrap();
    let unfinished = store.unfinished(&orders).await.unwrap().unwrap();
    assert_eq!(unfinished.entries.len(), 2);
    assert_eq!(unfinished.stage_begun(PlanKind::Isolate), Some(0));
    store.append("r1", vec![entry(What::Ended { outcome: Outcome::Done })]).await.unwrap();
    assert_eq!(store.unfinished(&orders).await.unwrap(), None);
    assert_eq!(store.history(&orders, 10).await.unwrap()[0].outcome(), Some(&Outcome::Done));
}

#[tokio::test]
async fn entries_of_an_unknown_recovery_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let ended = entry(What::Ended { outcome: Outcome::Done });
    assert!(store.append("never begun", vec![ended]).await.is_err());
}

#[tokio::test]
async fn nothing_is_begun_before_the_one_that_has_not_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.begin(&recovery("1")).await.unwrap();
    match store.begin(&recovery("2")).await {
        Err(StoreError::Unfinished { id, .. }) => assert_eq!(id, "1"),
        other => panic!("{other:?}"),
    }
    let elsewhere = Recovery { cluster: ClusterName("other".to_owned()), ..recovery("3") };
    store.begin(&elsewhere).await.unwrap();
    store.append("1", vec![entry(What::Ended { outcome: Outcome::Done })]).await.unwrap();
    store.begin(&recovery("2")).await.unwrap();
}
