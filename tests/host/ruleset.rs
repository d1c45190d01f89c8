//! Another program takes the packet filter away: the kernel says so at once, and what is written again is closed from its first moment.

use std::process::Command;
use std::time::Duration;

use mha::agent::host::filter::{Access, Filter, FilterError};
use mha::agent::host::ruleset::Ruleset;
use mha::clock::now;
use tokio::time::timeout;

use crate::{HERE, echo, ms, on_two_hosts};

const SOON: Duration = Duration::from_millis(300);

#[test]
fn a_flushed_ruleset_is_told_at_once_and_written_again_closed() {
    on_two_hosts("ruleset::a_flushed_ruleset_is_told_at_once_and_written_again_closed", async |mut peer| {
        echo("[::]:3306");
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        let mut ruleset = Ruleset::open().unwrap();
        filter.close().await.unwrap();
        filter.hold(Duration::from_millis(50)).await.unwrap();
        assert!(timeout(SOON, ruleset.changed()).await.is_err(), "this process's own changes are no news");
        assert_eq!(filter.read_back().await.unwrap(), Access::Closed);
        for flush in [&["flush", "ruleset"][..], &["flush", "set", "inet", "mha_3306", "guarded"][..]] {
            let flushing = now();
            assert!(Command::new("nft").args(flush).status().unwrap().success());
            timeout(SOON, ruleset.changed()).await.expect("the kernel tells of it").unwrap();
            let told = ms(flushing);
            match filter.read_back().await {
                Ok(Access::Admitted) | Err(FilterError::Vanished { .. }) => {}
                other => panic!("{flush:?}: {other:?}"),
            }
            assert_eq!(peer.ask(&format!("connect {HERE}")).0, "ok", "nothing keeps clients out");
            let again = Filter::open_guarded(&[3306]).await.unwrap();
            println!("{flush:?}: told after {told:.2} ms, written again after {:.2} ms", ms(flushing));
            assert_eq!(again.read_back().await.unwrap(), Access::Closed, "from its first moment");
            assert_eq!(peer.ask(&format!("connect {HERE}")).0, "ConnectionRefused");
            // Writing it was a change by a process of its own.
            timeout(SOON, ruleset.changed()).await.expect("also a harmless change is told").unwrap();
        }
    });
}
