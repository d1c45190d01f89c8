//! Clients that wait for an answer: whatever ends the server's right to give it also ends their wait.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use mha::agent::host::filter::{Access, Filter};
use mha::agent::host::vip::{Addresses, Vip};
use mha::clock::now;

use crate::{HERE, HERE6, OTHER, Peer, ms, on_two_hosts, run};

const LEASE: Duration = Duration::from_millis(100);

/// Ends the lease as it ends while no process runs: nothing that is connected is cut.
async fn lease_ends(filter: &Filter) {
    filter.hold(LEASE).await.unwrap();
    tokio::time::sleep(LEASE * 3).await;
    assert_eq!(filter.read_back().await.unwrap(), Access::Closed);
}

/// What the peer's blocked read saw, and how many milliseconds after `from`.
fn seen(peer: &mut Peer, from: mha::model::time::Moment) -> (String, f64) {
    let (text, at) = peer.hear();
    (text, at.saturating_sub(from.as_micros()) as f64 / 1_000.0)
}

#[test]
fn an_answer_after_the_lease_resets_its_client() {
    on_two_hosts("waiting::an_answer_after_the_lease_resets_its_client", async |mut peer| {
        let listener = tokio::net::TcpListener::bind("[::]:3306").await.unwrap();
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        for address in [HERE, HERE6] {
            filter.admit().await.unwrap();
            peer.tell(&format!("connect {address}"));
            let (server, _) = listener.accept().await.unwrap();
            assert_eq!(peer.hear().0, "ok");
            let mut local = TcpStream::connect(address).unwrap();
            let (local_server, _) = listener.accept().await.unwrap();
            peer.tell("read");
            lease_ends(&filter).await;
            let answering = now();
            for socket in [&server, &local_server] {
                assert_eq!(socket.try_write(b"OK").unwrap(), 2);
            }
            let (seen, after) = seen(&mut peer, answering);
            println!("{address}: the client saw {seen} {after:.2} ms after the answer");
            assert_eq!(seen, "ConnectionReset", "no process has to run for it");
            assert!(after < 50.0);
            local.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let error = std::io::Read::read(&mut local, &mut [0; 4]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "over loopback too");
            filter.close().await.unwrap();
            let mut gone = [0; 4];
            for socket in [&server, &local_server] {
                assert!(
                    socket.try_read(&mut gone).is_err(),
                    "the server's session ends with the next closing"
                );
            }
        }
    });
}

/// What the server sends is lost on its way while this rule stands.
fn lose_what_is_sent(lost: bool) {
    let script = if lost {
        "add table inet lost; add chain inet lost out { type filter hook output priority 0; }; \
         add rule inet lost out tcp sport 3306 drop"
    } else {
        "delete table inet lost"
    };
    assert!(Command::new("nft").arg(script).status().unwrap().success());
}

#[test]
fn an_orphaned_connection_is_heard_to_end() {
    on_two_hosts("waiting::an_orphaned_connection_is_heard_to_end", async |mut peer| {
        let listener = tokio::net::TcpListener::bind("[::]:3306").await.unwrap();
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        for address in [HERE, HERE6] {
            filter.admit().await.unwrap();
            peer.tell(&format!("connect {address}"));
            let (server, _) = listener.accept().await.unwrap();
            assert_eq!(peer.hear().0, "ok");
            peer.tell("read");
            tokio::time::sleep(Duration::from_millis(50)).await;
            // An answer and an end that never arrive: no process has this connection any more.
            lose_what_is_sent(true);
            assert_eq!(server.try_write(b"OK").unwrap(), 2);
            drop(server);
            // By now its next retransmission is more than half a second away.
            tokio::time::sleep(Duration::from_millis(700)).await;
            lose_what_is_sent(false);
            let closing = now();
            filter.close().await.unwrap();
            let (seen, after) = seen(&mut peer, closing);
            println!("{address}: the client saw {seen} {after:.2} ms after the closing");
            assert_eq!(seen, "ConnectionReset");
            assert!(after < 100.0);
        }
    });
}

/// A third host, on a wire of its own to the other one, that takes the service address.
struct NewHolder(String);

impl NewHolder {
    fn new(vips: &[Vip]) -> Self {
        let (name, other) = (format!("mha{}newc", std::process::id()), std::env::var(OTHER).unwrap());
        run(&["netns", "add", &name]);
        let holder = Self(name);
        run(&[
            "link", "add", "wire2", "netns", &other, "type", "veth", "peer", "name", "wire2", "netns",
            &holder.0,
        ]);
        // Here the client's host has two wires; in the field it is one network, and no answer comes from a wrong side.
        for setting in ["all", "wire", "wire2"] {
            let setting = format!("net.ipv4.conf.{setting}.rp_filter=0");
            let arguments = ["netns", "exec", &other, "sysctl", "-q", "-w", &setting];
            run(&arguments);
        }
        run(&["-n", &holder.0, "link", "set", "wire2", "up"]);
        run(&["-n", &other, "link", "set", "wire2", "up"]);
        for vip in vips {
            let address = format!("{}/{}", vip.address, vip.prefix);
            let mut add = vec!["-n", &holder.0, "address", "add", &address, "dev", "wire2"];
            if vip.address.is_ipv6() {
                add.push("nodad");
            }
            run(&add);
            run(&["-n", &other, "route", "replace", &vip.address.to_string(), "dev", "wire2"]);
        }
        holder
    }
}

impl Drop for NewHolder {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn a_client_is_told_after_its_address_has_moved() {
    on_two_hosts("waiting::a_client_is_told_after_its_address_has_moved", async |mut peer| {
        let addresses = Addresses::open().unwrap();
        let vips = [("10.77.0.100", 24), ("fd77::100", 64)].map(|(address, prefix)| Vip {
            address: address.parse().unwrap(),
            prefix,
            interface: "wire".to_owned(),
        });
        let listener = TcpListener::bind("[::]:3306").unwrap();
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        for vip in &vips {
            filter.admit().await.unwrap();
            addresses.hold(vip, Duration::from_secs(20)).await.unwrap();
            peer.tell(&format!("connect {}", SocketAddr::new(vip.address, 3306)));
            let (server, _) = listener.accept().unwrap();
            assert_eq!(peer.hear().0, "ok");
            peer.tell("read");
            lease_ends(&filter).await;
            addresses.release(vip).await.unwrap();
            let holder = NewHolder::new(std::slice::from_ref(vip));
            tokio::time::sleep(Duration::from_millis(100)).await;
            let closing = now();
            filter.close().await.unwrap();
            println!("{vip}: closed in {:.2} ms", ms(closing));
            let (seen, after) = seen(&mut peer, closing);
            println!("{vip}: the client saw {seen} {after:.2} ms after the closing");
            assert_eq!(
                seen, "ConnectionReset",
                "the new holder's kernel answers for a connection that it never had"
            );
            assert!(after < 200.0);
            drop((server, holder));
        }
    });
}
