//! Both families against a naive model: a `HashSet` of single transactions.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// One interval as a generator sees it: which origin, from, length.
type Piece = (usize, u64, u64);

const ORIGINS: usize = 6;

/// The text of pieces, in the order given, one element each, with the white space servers print.
fn text(flavor: Flavor, base: u64, pieces: &[Piece]) -> String {
    let element = |&(origin, at, len): &Piece| {
        let (first, last) = (base + at, base + at + len);
        match flavor {
            Flavor::MySql => {
                let uuid = ["3E11FA47-71CA-11E1-9E33-C80AA9429562", "ffffffff-0000-1111-2222-00000000000a"];
                let tag = ["", ":tag", ":_T2"];
                format!("{}{}:{first}-{last}", uuid[origin % 2], tag[origin / 2])
            }
            Flavor::MariaDb => format!("{}-{}-({first}..{last})", origin % 2, 1 + origin / 2),
        }
    };
    pieces.iter().map(element).collect::<Vec<_>>().join(",\n")
}

fn naive(base: u64, pieces: &[Piece]) -> HashSet<(usize, u64)> {
    let single = |&(origin, at, len): &Piece| (at..=at + len).map(move |n| (origin, base + n));
    pieces.iter().flat_map(single).collect()
}

fn flavor() -> impl Strategy<Value = Flavor> {
    prop::sample::select(vec![Flavor::MySql, Flavor::MariaDb])
}

/// At the bottom, in the middle and just below the highest number of MySQL.
fn base() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![1, 1 << 40, mysql::MAX_NUMBER - 40])
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec((0..ORIGINS, 0u64..33, 0u64..8), 0..14)
}

proptest! {
    #[test]
    fn sets_agree_with_the_naive_model(flavor in flavor(), base in base(), left in pieces(), right in pieces()) {
        let a = GtidSet::parse(flavor, &text(flavor, base, &left)).unwrap();
        let b = GtidSet::parse(flavor, &text(flavor, base, &right)).unwrap();
        let (na, nb) = (naive(base, &left), naive(base, &right));

        for (set, expected) in [
            (a.clone(), na.clone()),
            (a.union(&b), &na | &nb),
            (a.minus(&b), &na - &nb),
            (a.intersect(&b), &na & &nb),
        ] {
            prop_assert_eq!(set.count(), expected.len() as u64);
            prop_assert_eq!(set.is_empty(), expected.is_empty());
            // Each transaction, asked for by itself.
            for origin in 0..ORIGINS {
                for n in 0..41 {
                    let one = GtidSet::parse(flavor, &text(flavor, base, &[(origin, n, 0)])).unwrap();
                    prop_assert_eq!(set.contains(&one), expected.contains(&(origin, base + n)));
                }
            }
            prop_assert_eq!(&GtidSet::parse(flavor, &set.to_string()).unwrap(), &set);
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(&serde_json::from_str::<GtidSet>(&json).unwrap(), &set);
        }
        prop_assert_eq!(a.contains(&b), na.is_superset(&nb));
        prop_assert_eq!(a == b, na == nb);
    }

    #[test]
    fn a_mariadb_position_is_everything_up_to_it(
        entries in prop::collection::vec((0u32..2, 1u32..4, 0u64..20), 0..8)
    ) {
        let state: Vec<_> = entries.iter().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
        let set = MariaDbSet::parse(&state.join(",")).unwrap();
        let single: HashSet<_> =
            entries.iter().flat_map(|&(d, s, n)| (1..=n).map(move |n| (d, s, n))).collect();
        prop_assert_eq!(set.0.count(), single.len() as u64);
        for domain in 0..2 {
            let newest = single.iter().filter(|gtid| gtid.0 == domain).map(|&(_, s, n)| (n, s)).max();
            let found = set.newest_per_domain().get(&domain).map(|&(s, n)| (n, s));
            prop_assert_eq!(found, newest);
        }
        // What is waited for is in the set, and only prefixes are printed: the server takes both.
        prop_assert!(set.0.contains(&MariaDbSet::parse(&set.position_text()).unwrap().0));
        prop_assert!(!set.to_string().contains('('));
    }

    #[test]
    fn parsing_never_panics(flavor in flavor(), text in any::<String>()) {
        let _ = GtidSet::parse(flavor, &text);
    }

    #[test]
    fn parsing_near_misses_never_panics(flavor in flavor(), text in "[0-9a-f_:,. ()\\-\n]{0,80}") {
        if let Ok(set) = GtidSet::parse(flavor, &text) {
            prop_assert_eq!(GtidSet::parse(flavor, &set.to_string()), Ok(set));
        }
    }

    #[test]
    fn a_damaged_set_is_refused_or_read_consistently(
        flavor in flavor(), pieces in pieces(), at in 0usize..400, junk in any::<char>()
    ) {
        let mut text = text(flavor, 1, &pieces);
        let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap();
        text.insert(at, junk);
        match GtidSet::parse(flavor, &text) {
            Ok(set) => prop_assert_eq!(GtidSet::parse(flavor, &set.to_string()), Ok(set)),
            Err(error) => prop_assert!(error.to_string().starts_with("not a ")),
        }
    }
}

#[test]
fn families_have_nothing_in_common() {
    let mysql = GtidSet::parse(Flavor::MySql, "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5").unwrap();
    let mariadb = GtidSet::parse(Flavor::MariaDb, "0-1-5").unwrap();
    let (no_mysql, no_mariadb) = (GtidSet::empty(Flavor::MySql), GtidSet::empty(Flavor::MariaDb));

    assert!(!mysql.contains(&mariadb) && !mariadb.contains(&mysql));
    assert!(mysql.contains(&no_mariadb) && no_mysql.contains(&no_mariadb));
    assert_eq!(mysql.minus(&mariadb), mysql);
    assert_eq!(mysql.intersect(&mariadb), no_mysql);
    assert_eq!(mysql.union(&no_mariadb), mysql);
    assert_eq!(no_mariadb.union(&mysql), mysql);
    assert_eq!(no_mysql.try_union(&no_mariadb), Ok(no_mysql));
    let refused = mysql.try_union(&mariadb);
    assert_eq!(refused, Err(GtidError::Flavors { left: Flavor::MySql, right: Flavor::MariaDb }));
}

#[test]
fn sets_are_stored_with_their_flavor() {
    let set = GtidSet::parse(Flavor::MariaDb, "0-1-5").unwrap();
    assert_eq!(serde_json::to_string(&set).unwrap(), r#"{"flavor":"mariadb","set":"0-1-5"}"#);
    assert!(serde_json::from_str::<GtidSet>(r#"{"flavor":"mysql","set":"0-1-5"}"#).is_err());
}

#[test]
fn an_error_names_the_part_and_stays_short() {
    let text = format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:1,{}", "\u{e9}".repeat(5_000));
    let error = GtidSet::parse(Flavor::MySql, &text).unwrap_err().to_string();
    assert!(error.starts_with("not a MySQL GTID set: \"\u{e9}") && error.len() < 400, "{error}");
}

/// No clock here: with a quadratic merge this test takes minutes, with a linear one less than a second.
#[test]
fn big_sets_are_cheap() {
    let odd = |from: u64| (0..100_000).map(|n| format!(":{}", from + 2 * n)).collect::<String>();
    let parse = |from| {
        let text = format!("3e11fa47-71ca-11e1-9e33-c80aa9429562{}", odd(from));
        GtidSet::parse(Flavor::MySql, &text).unwrap()
    };
    let (odd, even) = (parse(1), parse(2));
    let whole = odd.union(&even);
    assert_eq!(whole.to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-200000");
    assert!(whole.contains(&odd) && !odd.contains(&even) && odd.intersect(&even).is_empty());
    assert_eq!(whole.minus(&odd), even);
}

#[test]
fn a_mariadb_position_between_two_looks_is_a_history() {
    let set = |text: &str| GtidSet::parse(Flavor::MariaDb, text).unwrap();
    let between =
        |position: &str, before: &str, after: &str| set(position).history_between(&set(before), &set(after));
    // Its own numbers ascend; what another wrote before is all there.
    assert_eq!(between("0-2-120", "0-1-100,0-2-110", "0-1-100,0-2-130"), set("0-1-100,0-2-120"));
    // The primary changed after the copy: what the new one wrote is not in it.
    assert_eq!(between("0-2-120", "0-1-100,0-2-110", "0-1-100,0-2-125,0-3-140"), set("0-1-100,0-2-120"));
    // It changed before the copy ended: the newest of the old one is below the position.
    assert_eq!(
        between("0-3-130", "0-1-100,0-2-110", "0-1-100,0-2-125,0-3-140"),
        set("0-1-100,0-2-125,0-3-130")
    );
    // Domains stand alone; one that began later is not in it.
    assert_eq!(between("0-1-5,1-7-3", "0-1-5,1-7-2", "0-1-9,1-7-4,2-1-1"), set("0-1-5,1-7-3"));
    assert_eq!(between("", "", "0-1-1"), set(""));
}

#[test]
fn how_far_a_mariadb_server_is_rests_on_who_wrote_the_newest() {
    let set = |text: &str| GtidSet::parse(Flavor::MariaDb, text).unwrap();
    let base = set("0-7-1000,0-1-5000,1-1-3");
    let far = |text: &str| set(text).is_as_far_as(&base);
    assert!(far("0-7-1000,0-1-5000,1-1-3") && far("0-1-6000,0-2-6100,1-1-3"));
    assert!(far("0-2-5100,1-1-3"), "made from a dump, it knows of nobody before");
    assert!(!far("0-1-4999,1-1-3") && !far("0-1-5000"), "a domain it lacks counts too");
    assert!(!far("0-1-4000,0-2-9000,1-1-3"), "an errant number of its own says nothing of what it lacks");
    assert!(set("0-1-5").is_as_far_as(&GtidSet::empty(Flavor::MariaDb)));
}
