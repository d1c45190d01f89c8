use chrono::TimeDelta;

use super::*;
use crate::execute::journal::{Entry, What};
use crate::model::ballot::Generation;
use crate::model::cluster::{ClusterName, Mode};
use crate::model::instance::InstanceId;
use crate::model::policy::Durability;

fn board(verdict: Verdict, doing: Doing, refused: &[&str]) -> Snapshot {
    let refused = refused.iter().map(ToString::to_string).collect();
    let sentence = format!("orders: {verdict}");
    Snapshot { verdict, sentence, doing, refused, ..blank(&ClusterName("orders".to_owned())) }
}

/// A board with nothing on it.
pub(in crate::manager) fn blank(name: &ClusterName) -> Snapshot {
    Snapshot {
        at: DateTime::UNIX_EPOCH,
        cluster: name.clone(),
        mode: Mode::Auto,
        verdict: Verdict::Healthy,
        sentence: String::new(),
        doing: Doing::Rest,
        refused: Vec::new(),
        prospect: String::new(),
        primary: Some(InstanceId::new("db1", 3306)),
        generation: Generation(1),
        durability: Durability::Lossless,
        acks: 1,
        ackers: Vec::new(),
        degraded: None,
        parked: Vec::new(),
        wishes: Default::default(),
        waiting: Vec::new(),
        vip: None,
        vip_on: None,
        evidence: Vec::new(),
        issues: Vec::new(),
        members: Vec::new(),
        candidates: Vec::new(),
        recovering: false,
        not_leading: None,
    }
}

impl Told {
    /// What is told of a board that stays as it is for three seconds, looked at ten times a second.
    fn held(&mut self, board: &Snapshot, recovery: Option<&Recovery>) -> Vec<Notice> {
        let news = (0..30).flat_map(|tenth| {
            let at = board.at + TimeDelta::milliseconds(tenth * 100);
            self.news(&Snapshot { at, ..board.clone() }, recovery)
        });
        news.collect()
    }
}

fn occasions(notices: &[Notice]) -> Vec<Occasion> {
    notices.iter().map(|notice| notice.occasion).collect()
}

#[test]
fn a_change_is_told_once_and_figures_are_no_change() {
    let mut told = Told::default();
    let healthy = board(Verdict::Healthy, Doing::Rest, &[]);
    assert!(told.held(&healthy, None).is_empty(), "a manager that starts over a healthy cluster");
    let waiting = board(Verdict::UnreachablePrimary, Doing::Wait, &[]);
    let news = told.held(&waiting, None);
    assert_eq!((occasions(&news), news[0].urgency), (vec![Occasion::Decision], Urgency::Critical));
    assert!(told.held(&waiting, None).is_empty());
    // What lasts from one look to the next wakes nobody.
    assert!(told.news(&healthy, None).is_empty());
    assert!(told.held(&waiting, None).is_empty());
    let refused =
        |left: &str| board(Verdict::DeadPrimary, Doing::Refuse, &[&format!("next in {left} s"), "nobody"]);
    let news = told.held(&refused("12"), None);
    assert_eq!((occasions(&news), news[0].reasons.len()), (vec![Occasion::Refused], 2));
    assert!(told.held(&refused("11"), None).is_empty());
    let other = board(Verdict::DeadPrimary, Doing::Refuse, &["no majority"]);
    assert_eq!(occasions(&told.held(&other, None)), [Occasion::Refused]);
    let news = told.held(&healthy, None);
    assert_eq!((occasions(&news), news[0].urgency), (vec![Occasion::Decision], Urgency::Info));
}

#[test]
fn a_recovery_is_told_at_its_begin_and_its_end_and_nothing_of_what_it_looks_like_between() {
    let mut told = Told::default();
    told.news(&board(Verdict::Healthy, Doing::Rest, &[]), None);
    let mut recovery = Recovery {
        id: "r1".to_owned(),
        cluster: ClusterName("orders".to_owned()),
        title: "db1 is to acknowledge nothing more".to_owned(),
        about: InstanceId::new("db1", 3306),
        kind: PlanKind::Isolate,
        ask: None,
        began_at: DateTime::UNIX_EPOCH,
        entries: Vec::new(),
    };
    let running = Snapshot { recovering: true, ..board(Verdict::DeadPrimary, Doing::Act, &[]) };
    assert_eq!(occasions(&told.news(&running, Some(&recovery))), [Occasion::RecoveryBegan]);
    let odd = Snapshot { verdict: Verdict::ManagerCutOff, ..running.clone() };
    assert!(told.news(&odd, Some(&recovery)).is_empty());
    let outcome = Outcome::Failed { why: "no answer".to_owned() };
    let after = Duration::from_millis(40);
    recovery.entries.push(Entry { at: DateTime::UNIX_EPOCH, after, what: What::Ended { outcome } });
    let news = told.news(&running, Some(&recovery));
    assert_eq!((occasions(&news), news[0].urgency), (vec![Occasion::RecoveryEnded], Urgency::Critical));
    assert_eq!(news[0].recovery.as_ref().unwrap().took, Some(after));
    assert_eq!(news[0].reasons, ["no answer"]);
    assert!(told.news(&board(Verdict::Healthy, Doing::Rest, &[]), Some(&recovery)).is_empty());
}

#[test]
fn losing_the_lead_is_told_and_starting_is_not() {
    let mut told = Told::default();
    let of = |why: Option<&str>| Snapshot {
        not_leading: why.map(str::to_owned),
        ..board(Verdict::Healthy, Doing::Rest, &[])
    };
    assert!(told.news(&of(Some(crate::manager::JUST_STARTED)), None).is_empty());
    assert!(told.news(&of(None), None).is_empty());
    assert_eq!(occasions(&told.news(&of(Some("another manager leads")), None)), [Occasion::Leadership]);
    assert_eq!(occasions(&told.news(&of(None), None)), [Occasion::Leadership]);
}
