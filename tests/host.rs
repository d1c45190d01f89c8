//! The agent's hands on real kernels: each test makes two network namespaces joined by a wire, runs itself again
//! inside the one ("here", the server's host), and drives a helper in the other ("there", a client's host).
//!
//! Needs root. Without it each test says so and passes, unless the environment variable `CI` is set: then it fails.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

#[path = "host/address.rs"]
mod address;
#[path = "host/ruleset.rs"]
mod ruleset;
#[path = "host/sources.rs"]
mod sources;
#[path = "host/waiting.rs"]
mod waiting;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use mha::agent::host::filter::{AGENT_MARK, Access, Filter, FilterError};
use mha::agent::host::listeners::Listeners;
use mha::agent::host::process::{Find, Process, find};
use mha::clock::now;

const ROLE: &str = "MHA_TEST_ROLE";
const OTHER: &str = "MHA_TEST_OTHER_NAMESPACE";
const HERE: &str = "10.77.0.1:3306";
const HERE6: &str = "[fd77::1]:3306";

fn ms(from: mha::model::time::Moment) -> f64 {
    now().since(from).as_secs_f64() * 1_000.0
}

// === Two hosts ===

struct Hosts {
    names: [String; 2],
}

impl Hosts {
    fn new(test: &str) -> Self {
        let short: String = test.chars().take(12).collect();
        let names = ["a", "b"].map(|end| format!("mha{}{short}{end}", std::process::id()));
        let hosts = Self { names };
        let [a, b] = &hosts.names;
        for name in [a, b] {
            run(&["netns", "add", name]);
            run(&["-n", name, "link", "set", "lo", "up"]);
        }
        run(&["link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b]);
        for (name, host) in [(a, 1), (b, 2)] {
            run(&["-n", name, "address", "add", &format!("10.77.0.{host}/24"), "dev", "wire"]);
            run(&["-n", name, "address", "add", &format!("fd77::{host}/64"), "dev", "wire", "nodad"]);
            run(&["-n", name, "link", "set", "wire", "up"]);
        }
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn run(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// Runs `body` inside the first of two new namespaces, in a process of its own.
fn on_two_hosts<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Peer) -> F) {
    if std::env::var(ROLE).as_deref() == Ok(test) {
        let peer = Peer::start(&std::env::var(OTHER).unwrap());
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body(peer));
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root to make network namespaces");
        println!("not run: {test} needs root to make network namespaces");
        return;
    }
    let hosts = Hosts::new(test);
    let output = Command::new("ip")
        .args(["netns", "exec", &hosts.names[0]])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ROLE, test)
        .env(OTHER, &hosts.names[1])
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed inside its namespace");
}

// === The helper on the other host ===

struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    fn start(namespace: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["peer", "--exact", "--nocapture"])
            .env(ROLE, "peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// The next answer: its text, and the moment it was true on the other host (same kernel, same clock).
    fn hear(&mut self) -> (String, u64) {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the helper is gone");
            if let Some(answer) = line.trim_end().split_once('@').map(|(_, answer)| answer) {
                let (text, at) = answer.rsplit_once(' ').unwrap();
                return (text.to_owned(), at.parse().unwrap());
            }
        }
    }

    fn ask(&mut self, line: &str) -> (String, u64) {
        self.tell(line);
        self.hear()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the helper. `connect A`, `send`, `read` (answers when the read returns), `local`, `ip ARGS`, `listen A`.
#[test]
fn peer() {
    if std::env::var(ROLE).as_deref() != Ok("peer") {
        return;
    }
    let mut stream: Option<TcpStream> = None;
    let say = |text: String| println!("@{text} {}", now().as_micros());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "connect" => match TcpStream::connect_timeout(&rest.parse().unwrap(), Duration::from_secs(2)) {
                Ok(open) => {
                    stream = Some(open);
                    say("ok".to_owned());
                }
                Err(error) => say(format!("{:?}", error.kind())),
            },
            "send" => say(match stream.as_ref().unwrap().write_all(b"x") {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            }),
            "read" => {
                let mut stream = stream.as_ref().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                say(match stream.read(&mut [0; 16]) {
                    Ok(count) => format!("ok {count}"),
                    Err(error) => format!("{:?}", error.kind()),
                });
            }
            "local" => say(stream.as_ref().unwrap().local_addr().unwrap().to_string()),
            "listen" => {
                echo(rest);
                say("ok".to_owned());
            }
            "ip" => {
                let output = Command::new("ip").args(rest.split(' ')).output().unwrap();
                say(format!("ok {}", String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ")));
            }
            _ => panic!("{verb}?"),
        }
    }
}

/// A server that answers each byte with itself.
fn echo(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 16];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

// === The packet filter ===

#[test]
fn closing_resets_everybody_at_once() {
    on_two_hosts("closing_resets_everybody_at_once", async |mut peer| {
        echo("[::]:3306");
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        assert_eq!(filter.read_back().await.unwrap(), Access::Admitted, "a new filter admits");
        for address in [HERE, HERE6] {
            filter.admit().await.unwrap();
            assert_eq!(peer.ask(&format!("connect {address}")).0, "ok");
            assert_eq!(peer.ask("send").0, "ok");
            assert_eq!(peer.ask("read").0, "ok 1");
            let mut local = TcpStream::connect(address).unwrap();
            peer.tell("read");
            tokio::time::sleep(Duration::from_millis(100)).await;
            let closing = now();
            filter.close().await.unwrap();
            let took = ms(closing);
            let (seen, at) = peer.hear();
            let after = at.saturating_sub(closing.as_micros()) as f64 / 1_000.0;
            println!("{address}: close took {took:.2} ms; a blocked reader saw {seen} after {after:.2} ms");
            assert_eq!(seen, "ConnectionReset");
            assert!(after < 50.0);
            assert!(local.read(&mut [0; 16]).is_err(), "loopback is no way in");
            let trying = now();
            assert_eq!(peer.ask(&format!("connect {address}")).0, "ConnectionRefused");
            println!("{address}: a new connection was refused after {:.2} ms", ms(trying));
            assert!(ms(trying) < 50.0);
            assert!(TcpStream::connect(address).is_err(), "nor is a new local connection");
        }
        let again = Filter::open_or_adopt(&[3306]).await.unwrap();
        assert_eq!(again.read_back().await.unwrap(), Access::Closed, "adopting changes nothing");
    });
}

#[test]
fn every_port_a_process_listens_on_is_found_and_closed() {
    on_two_hosts("every_port_a_process_listens_on_is_found_and_closed", async |mut peer| {
        for address in ["[::]:3306", "0.0.0.0:3307", "127.0.0.1:33060"] {
            echo(address);
        }
        let own = find(&Find::TcpPort(3306)).await.unwrap().unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let stranger = Process { pid: other.id(), ..own.clone() };
        let mut listeners = Listeners::open().unwrap();
        assert_eq!(listeners.ports_of(&own).await.unwrap(), [3306, 3307, 33060].into());
        assert_eq!(
            listeners.ports_of(&stranger).await.unwrap(),
            [].into(),
            "another process's are not its own"
        );
        // Opened later, as a plugin does.
        echo("10.77.0.1:33062");
        let asking = now();
        let ports = listeners.ports_of(&own).await.unwrap();
        println!("a change was seen in {:.2} ms", ms(asking));
        assert_eq!(ports, [3306, 3307, 33060, 33062].into());
        let asking = now();
        assert_eq!(listeners.ports_of(&own).await.unwrap(), ports);
        println!("no change was seen in {:.2} ms", ms(asking));
        let reached = ["10.77.0.1:3306", "10.77.0.1:3307", "10.77.0.1:33062"];
        let filter = Filter::open_or_adopt(&ports.into_iter().collect::<Vec<_>>()).await.unwrap();
        for address in reached {
            assert_eq!(peer.ask(&format!("connect {address}")).0, "ok");
        }
        filter.close().await.unwrap();
        for address in reached {
            assert_eq!(peer.ask(&format!("connect {address}")).0, "ConnectionRefused");
        }
        other.kill().unwrap();
        other.wait().unwrap();
    });
}

#[test]
fn an_answer_in_flight_is_not_let_out() {
    on_two_hosts("an_answer_in_flight_is_not_let_out", async |mut peer| {
        let listener = tokio::net::TcpListener::bind("[::]:3306").await.unwrap();
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        peer.tell(&format!("connect {HERE}"));
        let (server, client) = listener.accept().await.unwrap();
        assert_eq!(peer.hear().0, "ok");
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        // Spared while closing, so that the socket survives; then no longer, as if the lease had run out under it.
        filter.spare(&[client]).await.unwrap();
        filter.close().await.unwrap();
        server.writable().await.unwrap();
        assert_eq!(server.try_write(b"yes").unwrap(), 3);
        assert_eq!(peer.ask("read").0, "ok 3", "a spared endpoint passes");
        peer.tell("read");
        filter.admit().await.unwrap();
        filter.clear_spared().await.unwrap();
        filter.hold(Duration::from_millis(200)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(filter.read_back().await.unwrap(), Access::Closed);
        let _ = server.try_write(b"OK");
        let (seen, _) = peer.hear();
        assert_eq!(seen, "ConnectionReset", "the client must not read the answer, and must not wait for it");
        filter.close().await.unwrap();
        let mut gone = [0; 4];
        assert!(server.try_read(&mut gone).is_err(), "the server's own socket is cut");
    });
}

#[test]
fn a_server_that_dies_behind_a_closed_filter_is_heard_to_end() {
    on_two_hosts("a_server_that_dies_behind_a_closed_filter_is_heard_to_end", async |mut peer| {
        let listener = tokio::net::TcpListener::bind("[::]:3306").await.unwrap();
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        for address in [HERE, HERE6] {
            filter.admit().await.unwrap();
            peer.tell(&format!("connect {address}"));
            let (server, _) = listener.accept().await.unwrap();
            assert_eq!(peer.hear().0, "ok");
            // Closed by the kernel's own timer, which cuts nothing that is connected.
            filter.hold(Duration::from_millis(100)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(filter.read_back().await.unwrap(), Access::Closed);
            peer.tell("read");
            let dying = now();
            drop(server);
            let (seen, at) = peer.hear();
            let after = at.saturating_sub(dying.as_micros()) as f64 / 1_000.0;
            println!("{address}: the client saw {seen} {after:.2} ms after the server's end");
            assert!(seen == "ok 0" || seen == "ConnectionReset", "{seen}");
            assert!(after < 50.0);
        }
    });
}

#[test]
fn a_lease_ends_without_any_process() {
    on_two_hosts("a_lease_ends_without_any_process", async |mut peer| {
        echo("[::]:3306");
        let filter = Filter::open_or_adopt(&[3306, 33060]).await.unwrap();
        filter.close().await.unwrap();
        assert_eq!(peer.ask(&format!("connect {HERE}")).0, "ConnectionRefused");
        let lease = Duration::from_secs(1);
        // Renewed for two seconds, every 200 ms: open all the time.
        let mut last = now();
        for _ in 0..10 {
            last = now();
            filter.hold(lease).await.unwrap();
            assert_eq!(peer.ask(&format!("connect {HERE}")).0, "ok");
            assert!(
                matches!(filter.read_back().await.unwrap(), Access::Held { remaining } if remaining <= lease)
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        drop(filter);
        while peer.ask(&format!("connect {HERE}")).0 == "ok" {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(ms(last) < 3_000.0, "the lease never ended");
        }
        println!("a lease of 1000 ms ended after {:.0} ms", ms(last));
        assert!((900.0..1_200.0).contains(&ms(last)));
        let filter = Filter::open_or_adopt(&[3306, 33060]).await.unwrap();
        assert_eq!(filter.read_back().await.unwrap(), Access::Closed);
        filter.hold(Duration::from_secs(60)).await.unwrap();
        filter.hold(lease).await.unwrap();
        let Access::Held { remaining } = filter.read_back().await.unwrap() else { panic!("not held") };
        assert!(remaining <= lease, "a shorter lease replaces a longer one");
        filter.admit().await.unwrap();
        assert_eq!(filter.read_back().await.unwrap(), Access::Admitted);
        assert_eq!(peer.ask(&format!("connect {HERE}")).0, "ok");
    });
}

#[test]
fn a_blocked_server_cannot_be_reached_from_here() {
    on_two_hosts("a_blocked_server_cannot_be_reached_from_here", async |mut peer| {
        assert_eq!(peer.ask("listen [::]:3306").0, "ok");
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        for there in ["10.77.0.2:3306", "[fd77::2]:3306"] {
            let address: SocketAddr = there.parse().unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            let (tell, hear) = mpsc::channel();
            let reader = std::thread::spawn(move || {
                let result = stream.read(&mut [0; 16]);
                tell.send((now(), result.map_err(|error| error.kind()))).unwrap();
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            let blocking = now();
            filter.block(address).await.unwrap();
            filter.block(address).await.unwrap();
            let took = ms(blocking);
            let (at, seen) = hear.recv_timeout(Duration::from_secs(2)).unwrap();
            reader.join().unwrap();
            println!("{there}: block (twice) took {took:.2} ms; a blocked reader saw {seen:?}");
            assert!(seen.is_err() && at.since(blocking) < Duration::from_millis(50));
            let trying = now();
            assert!(TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_err());
            assert!(ms(trying) < 50.0, "refused at once, not after {:.0} ms", ms(trying));
            filter.unblock(address).await.unwrap();
            filter.unblock(address).await.unwrap();
            TcpStream::connect(address).unwrap();
        }
    });
}

#[test]
fn the_agents_own_socket_passes() {
    on_two_hosts("the_agents_own_socket_passes", async |_peer| {
        echo("[::]:3306");
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        let marked = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_mark(AGENT_MARK).unwrap();
            let address: SocketAddr = HERE.parse().unwrap();
            socket.connect_timeout(&address.into(), Duration::from_secs(1)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            TcpStream::from(socket)
        };
        let mut before = marked();
        filter.close().await.unwrap();
        for stream in [&mut before, &mut marked()] {
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0; 16]).unwrap(), 1, "both directions of a marked socket pass");
        }
    });
}

#[test]
fn a_flushed_ruleset_is_noticed() {
    on_two_hosts("a_flushed_ruleset_is_noticed", async |_peer| {
        let filter = Filter::open_or_adopt(&[3306]).await.unwrap();
        let rule = ["flush", "chain", "inet", "mha_3306", "output"];
        assert!(Command::new("nft").args(rule).status().unwrap().success());
        assert!(matches!(filter.close().await, Err(FilterError::Altered { .. })));
        assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        assert!(matches!(filter.read_back().await, Err(FilterError::Vanished { .. })));
        assert!(matches!(filter.hold(Duration::from_secs(1)).await, Err(FilterError::Vanished { .. })));
        assert!(matches!(filter.unblock(HERE.parse().unwrap()).await, Err(FilterError::Vanished { .. })));
        Filter::open_or_adopt(&[3306]).await.unwrap().close().await.unwrap();
    });
}
