//! The service address: it ends by itself, neighbours learn where it is, and another holder is found.

use std::net::TcpListener;
use std::time::Duration;

use mha::agent::host::announce::{self, Announcer};
use mha::agent::host::filter::Filter;
use mha::agent::host::vip::{Addresses, Vip};
use mha::clock::now;

use crate::{ms, on_two_hosts};

fn vips() -> [Vip; 2] {
    [("10.77.0.100", 24), ("fd77::100", 64)].map(|(address, prefix)| Vip {
        address: address.parse().unwrap(),
        prefix,
        interface: "wire".to_owned(),
    })
}

#[test]
fn an_address_ends_by_itself() {
    on_two_hosts("address::an_address_ends_by_itself", async |_peer| {
        let addresses = Addresses::open().unwrap();
        for vip in vips() {
            addresses.release(&vip).await.unwrap();
            assert_eq!(addresses.held(&vip).await.unwrap(), None);
            let first = now();
            addresses.hold(&vip, Duration::from_millis(1_500)).await.unwrap();
            println!("{vip}: added in {:.2} ms", ms(first));
            assert!(addresses.held(&vip).await.unwrap().is_some_and(|left| left <= Duration::from_secs(2)));
            TcpListener::bind((vip.address, 4000)).unwrap();
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            let renewed = now();
            addresses.hold(&vip, Duration::from_secs(2)).await.unwrap();
            while addresses.held(&vip).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(ms(renewed) < 6_000.0, "{vip} never ended");
            }
            println!("{vip}: 2000 ms after the renewal it was gone after {:.0} ms", ms(renewed));
            assert!(ms(renewed) > 2_000.0 && ms(renewed) < 4_500.0, "not before what it is held for");
            addresses.hold(&vip, Duration::from_secs(9)).await.unwrap();
            addresses.release(&vip).await.unwrap();
            assert_eq!(addresses.held(&vip).await.unwrap(), None);
        }
        let nowhere = Vip { interface: "wire9".to_owned(), ..vips()[0].clone() };
        let error = addresses.hold(&nowhere, Duration::from_secs(3)).await.unwrap_err().to_string();
        assert!(error.contains("wire9"), "{error}");
        addresses.release(&nowhere).await.unwrap();
    });
}

/// What `ip` shows of IPv4 on the wire.
fn shown(of: &str) -> String {
    let output = std::process::Command::new("ip").args(["-4", of, "show", "dev", "wire"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The host's own address, and the way to its network.
fn own_is_there() -> bool {
    shown("address").contains("inet 10.77.0.1/24") && shown("route").contains("10.77.0.0/24")
}

#[test]
fn only_the_service_address_goes_away() {
    on_two_hosts("address::only_the_service_address_goes_away", async |_peer| {
        let setting = |name| format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries");
        for name in ["all", "wire"] {
            std::fs::write(setting(name), "0").unwrap();
        }
        let (addresses, [vip, _]) = (Addresses::open().unwrap(), vips());
        let (here, by_hand) = ("10.77.0.1/24", "10.77.0.100/24");
        let ip = |verb: &str, address: &str| crate::run(&["address", verb, address, "dev", "wire"]);
        let held = Duration::from_secs(9);
        addresses.hold(&vip, held).await.unwrap();
        assert!(shown("address").contains("inet 10.77.0.100/32"), "{}", shown("address"));
        addresses.release(&vip).await.unwrap();
        assert!(own_is_there(), "{}", shown("address"));
        // It was there first, as where a host's own address comes from a slow DHCP server.
        ip("delete", here);
        addresses.hold(&vip, held).await.unwrap();
        assert!(shown("route").contains("10.77.0.0/24"), "nothing else leads to its network");
        ip("add", here);
        assert!(shown("address").contains("secondary"), "{}", shown("address"));
        addresses.hold(&vip, Duration::from_millis(500)).await.unwrap();
        assert!(own_is_there() && shown("address").contains("inet 10.77.0.100/32"), "{}", shown("address"));
        while addresses.held(&vip).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(own_is_there(), "it ended by itself: {}", shown("address"));
        // Somebody else has added it, first and for ever.
        ip("delete", here);
        ip("add", by_hand);
        ip("add", here);
        assert_eq!(addresses.held(&vip).await.unwrap(), Some(Duration::MAX));
        addresses.release(&vip).await.unwrap();
        assert_eq!(addresses.held(&vip).await.unwrap(), None);
        assert!(own_is_there(), "{}", shown("address"));
        assert_eq!(std::fs::read_to_string(setting("wire")).unwrap().trim(), "0", "as it was");
    });
}

#[test]
fn neighbours_learn_of_an_announcement() {
    on_two_hosts("address::neighbours_learn_of_an_announcement", async |mut peer| {
        let addresses = Addresses::open().unwrap();
        let mac = std::fs::read_to_string("/sys/class/net/wire/address").unwrap();
        for vip in vips() {
            let stale = "02:00:00:00:00:99";
            peer.ask(&format!("ip neigh replace {} lladdr {stale} dev wire nud reachable", vip.address));
            let announcer = Announcer::open(&addresses, &vip).await.unwrap();
            addresses.hold(&vip, Duration::from_secs(9)).await.unwrap();
            let start = now();
            announcer.announce().unwrap();
            println!("{vip}: announced in {:.3} ms", ms(start));
            assert!(ms(start) < 5.0);
            let mut shown = peer.ask(&format!("ip neigh show {}", vip.address)).0;
            while !shown.contains(mac.trim()) && ms(start) < 1_500.0 {
                shown = peer.ask(&format!("ip neigh show {}", vip.address)).0;
            }
            println!(
                "{vip}: learned after {:.2} ms; {}",
                ms(start),
                peer.ask("ip -s -6 address show dev wire").0
            );
            assert!(shown.contains(mac.trim()), "{vip}: {shown}");
        }
    });
}

#[test]
fn a_probe_finds_the_other_holder() {
    on_two_hosts("address::a_probe_finds_the_other_holder", async |mut peer| {
        let addresses = Addresses::open().unwrap();
        let theirs = peer.ask("ip -o link show dev wire").0;
        let wait = Duration::from_millis(400);
        for vip in vips() {
            assert_eq!(announce::probe(&addresses, &vip, wait).await.unwrap(), None);
            peer.ask(&format!("ip address add {}/{} dev wire", vip.address, vip.prefix));
            // An IPv6 address is tentative at first, and answers nobody.
            while vip.address.is_ipv6() && peer.ask("ip -6 address show dev wire").0.contains("tentative") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let start = now();
            let found = announce::probe(&addresses, &vip, wait).await.unwrap().expect("the holder answers");
            println!("{vip}: probed, {found} answered after {:.2} ms", ms(start));
            assert!(theirs.contains(&found.to_string()), "{found} is not in {theirs}");
        }
    });
}

// === What it costs ===

#[test]
fn renewals_are_cheap() {
    on_two_hosts("address::renewals_are_cheap", async |_peer| {
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        let addresses = Addresses::open().unwrap();
        let [vip, _] = vips();
        let announcer = Announcer::open(&addresses, &vip).await.unwrap();
        let mut costs: [Vec<f64>; 5] = Default::default();
        for _ in 0..100 {
            let start = now();
            filter.hold(Duration::from_secs(3)).await.unwrap();
            costs[0].push(ms(start));
            let start = now();
            addresses.hold(&vip, Duration::from_secs(3)).await.unwrap();
            costs[1].push(ms(start));
            let start = now();
            announcer.announce().unwrap();
            costs[2].push(ms(start));
            let start = now();
            filter.read_back().await.unwrap();
            costs[3].push(ms(start));
            let start = now();
            filter.close().await.unwrap();
            costs[4].push(ms(start));
        }
        for (what, mut found) in ["hold", "vip hold", "announce", "read_back", "close"].into_iter().zip(costs)
        {
            found.sort_by(f64::total_cmp);
            println!("{what}: p50 {:.3} ms, p99 {:.3} ms", found[49], found[98]);
            assert!(found[49] < 20.0, "{what} is dear");
        }
    });
}
