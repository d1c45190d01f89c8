//! A block of a source ends, or it is told that it does not: also where the source's name does not resolve.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mha::agent::hands::Hands;
use mha::agent::ports::Ports;
use mha::model::instance::InstanceId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::on_two_hosts;

const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_block_ends_or_the_name_is_told() {
    on_two_hosts("sources::a_block_ends_or_the_name_is_told", async |mut peer| {
        let directory = tempfile::tempdir().unwrap();
        let hands = || {
            let ports = Ports::open(3306, directory.path()).unwrap();
            Hands::open(ports, TaskTracker::new(), CancellationToken::new()).unwrap()
        };
        peer.ask("listen 10.77.0.2:3310");
        let there: SocketAddr = "10.77.0.2:3310".parse().unwrap();
        let reaches = || TcpStream::connect_timeout(&there, SOON).is_ok();
        let (named, nameless) = (InstanceId::new("10.77.0.2", 3310), InstanceId::new("db9.invalid", 3310));
        let first = hands();
        first.block_source(&named, &[there]).await.unwrap();
        assert!(!reaches());
        first.unblock_source(&named, SOON).await.unwrap();
        assert!(reaches());
        // Its name does not resolve any more: what it was is remembered.
        first.block_source(&nameless, &[there]).await.unwrap();
        assert!(!reaches());
        first.unblock_source(&nameless, SOON).await.unwrap();
        assert!(reaches());
        // The agent was restarted, and cannot tell who that address is.
        first.block_source(&nameless, &[there]).await.unwrap();
        let next = hands();
        let told = next.unblock_source(&nameless, SOON).await.unwrap_err().to_string();
        println!("{told}");
        assert!(told.contains("db9.invalid:3310") && told.contains("10.77.0.2:3310"), "{told}");
        assert!(!reaches(), "and it is as told");
        let elsewhere = InstanceId::new("db9.invalid", 3311);
        next.unblock_source(&elsewhere, SOON).await.unwrap();
        next.unblock_source(&named, SOON).await.unwrap();
        assert!(reaches());
        // Nothing is blocked, so nothing has to be found out.
        next.unblock_source(&nameless, SOON).await.unwrap();
    });
}
