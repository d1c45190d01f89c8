//! The traps of the client library and of servers that do not answer, each against a peer that springs it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests: a failure is a panic that says where")]

mod support;

#[path = "traps/answers.rs"]
mod answers;

use std::time::Duration;

use mha::model::instance::Flavor;
use mha::model::observation::Unseen;
use mha::mysql::greeting::greeting;
use mha::mysql::{ClientError, Connection, Target, Tls};
use support::{Server, account, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What a fake server does with everyone who connects.
#[derive(Debug, Clone, Copy)]
enum Manners {
    Silent,
    GreetAndHang,
    GreetAndReset,
    TooMany,
    Babble,
}

/// A fake server; ends when dropped.
struct Fake {
    port: u16,
    task: JoinHandle<()>,
}

impl Fake {
    async fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        #[expect(clippy::disallowed_methods, reason = "a test's peer; ended in drop")]
        let task = tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                behave(&mut stream, manners).await;
                kept.push(stream);
                if matches!(manners, Manners::GreetAndReset) {
                    kept.clear();
                }
            }
        });
        Self { port, task }
    }

    fn target(&self) -> Target {
        Target::Tcp { host: "127.0.0.1".to_owned(), port: self.port }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn behave(stream: &mut TcpStream, manners: Manners) {
    match manners {
        Manners::Silent => {}
        Manners::GreetAndHang => stream.write_all(&hello()).await.unwrap(),
        Manners::GreetAndReset => {
            stream.write_all(&hello()).await.unwrap();
            let mut login = [0; 64];
            let _ = stream.read(&mut login).await;
            // Closing with unread bytes resets.
        }
        Manners::TooMany => {
            let said = b"\xff\x10\x04#08004Too many connections";
            stream.write_all(&packet(said)).await.unwrap();
        }
        Manners::Babble => stream.write_all(&packet(b"HTTP/1.1 400")).await.unwrap(),
    }
}

fn packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![payload.len() as u8, 0, 0, 0];
    packet.extend(payload);
    packet
}

/// A greeting as MySQL 8 sends it.
fn hello() -> Vec<u8> {
    let mut hello = b"\x0a8.0.99-fake\0".to_vec();
    hello.extend([9, 0, 0, 0]);
    hello.extend(b"12345678\0");
    hello.extend([0xff, 0xff, 45, 2, 0, 0x0f, 0x80, 21]);
    hello.extend([0; 10]);
    hello.extend(b"123456789012\0mysql_native_password\0");
    packet(&hello)
}

async fn open(target: &Target, seconds: f64) -> Result<Connection, ClientError> {
    Connection::open(target, &account("mha"), &Tls::Off, None, within(seconds)).await
}

/// Both ways to look agree, and keep to their deadline.
async fn looks(target: &Target) -> (Unseen, Unseen) {
    let began = Instant::now();
    let opened = open(target, 0.4).await.unwrap_err().unseen;
    let greeted = greeting(target, within(0.4)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    (opened, greeted)
}

#[tokio::test]
async fn a_silent_peer_is_silent_before_the_greeting() {
    let fake = Fake::start(Manners::Silent).await;
    let silent = Unseen::SilentBeforeGreeting;
    assert_eq!(looks(&fake.target()).await, (silent.clone(), silent));
}

#[tokio::test]
async fn a_peer_that_greets_and_hangs_is_hung() {
    let fake = Fake::start(Manners::GreetAndHang).await;
    assert_eq!(open(&fake.target(), 0.4).await.unwrap_err().unseen, Unseen::HungAfterLogin);
    assert_eq!(greeting(&fake.target(), within(0.4)).await, Ok(()));
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    drop(listener);
    assert_eq!(looks(&target).await, (Unseen::Refused, Unseen::Refused));
    let socket = Target::Socket("/nonexistent/socket".into());
    assert_eq!(looks(&socket).await, (Unseen::Refused, Unseen::Refused));
}

#[tokio::test]
async fn a_reset_is_a_lost_connection() {
    let fake = Fake::start(Manners::GreetAndReset).await;
    assert_eq!(open(&fake.target(), 1.0).await.unwrap_err().unseen, Unseen::Lost);
}

#[tokio::test]
async fn nobody_at_the_address_is_no_route() {
    // A listener whose backlog is full answers no further attempt: as a lost host.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    let _full: Vec<_> = (0..2)
        .filter_map(|_| std::net::TcpStream::connect_timeout(&at, Duration::from_millis(50)).ok())
        .collect();
    let target = Target::Tcp { host: "127.0.0.1".to_owned(), port: at.port() };
    assert_eq!(looks(&target).await, (Unseen::NoRoute, Unseen::NoRoute));
}

#[tokio::test]
async fn names_and_strangers_say_nothing_of_the_server() {
    let nowhere = Target::Tcp { host: "no-such-host.invalid".to_owned(), port: 3306 };
    assert!(matches!(open(&nowhere, 5.0).await.unwrap_err().unseen, Unseen::Name(_)));
    let fake = Fake::start(Manners::Babble).await;
    assert!(open(&fake.target(), 1.0).await.unwrap_err().unseen.says_nothing());
    assert!(greeting(&fake.target(), within(1.0)).await.unwrap_err().says_nothing());
}

#[tokio::test]
async fn too_many_connections_is_alive() {
    let fake = Fake::start(Manners::TooMany).await;
    assert_eq!(looks(&fake.target()).await, (Unseen::TooManyConnections, Unseen::TooManyConnections));
}

async fn on_both(test: impl AsyncFn(Flavor)) {
    test(Flavor::MariaDb).await;
    test(Flavor::MySql).await;
}

#[tokio::test]
async fn a_timed_out_question_takes_its_connection_along() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        let late = conn.query("SELECT SLEEP(2), 'a' AS a", within(0.1)).await.unwrap_err();
        assert_eq!(late.unseen, Unseen::HungAfterLogin);
        assert!(!conn.is_open());
        // Not a's answer, and no answer at all.
        assert_eq!(conn.query("SELECT 'b' AS b", within(1.0)).await.unwrap_err().unseen, Unseen::Lost);
        // The server is told: it sees the session end.
        let mut other = server.connect().await;
        let deadline = within(5.0);
        let sleepers =
            "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
        while other.query(sleepers, within(1.0)).await.unwrap()[0].number::<u32>("n") != Some(0) {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_error_in_a_batch_leaves_the_connection_usable() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        let answer = conn
            .batch("SELECT 1 AS a; DO 1; SELECT 2 AS b; SELECT * FROM no.such; SELECT 3", within(5.0))
            .await;
        assert_eq!(answer.sets.len(), 2);
        assert_eq!(answer.sets[1][0].number("b"), Some(2));
        assert!(matches!(answer.error.unwrap().code, Some(1049 | 1146)));
        let rows = conn.query("SELECT 'next' AS c", within(5.0)).await.unwrap();
        assert_eq!(rows[0].text("c"), Some("next"));
        assert!(conn.query("SELECT 1 AS a WHERE 0; DO 1", within(5.0)).await.unwrap().is_empty());
        conn.close(within(1.0)).await;
    })
    .await;
}

#[tokio::test]
async fn alive_whatever_it_says() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &["--max-connections=10"]).await else { return };
        let mut wrong = account("mha");
        wrong.password = "no".into();
        let denied =
            Connection::open(&server.target(), &wrong, &Tls::Off, None, within(5.0)).await.unwrap_err();
        assert!(matches!(&denied.unseen, Unseen::AccessDenied(text) if text.starts_with("1045")), "{denied}");
        assert!(!format!("{denied:?}").contains("no\""));
        let mut held = Vec::new();
        let full = loop {
            match Connection::open(&server.target(), &account("plain"), &Tls::Off, None, within(5.0)).await {
                Ok(conn) => held.push(conn),
                Err(error) => break error,
            }
        };
        assert_eq!(full.unseen, Unseen::TooManyConnections);
        // With an administrators' slot left it greets; both prove it alive.
        let greeted = greeting(&server.target(), within(5.0)).await;
        assert!(matches!(greeted, Ok(()) | Err(Unseen::TooManyConnections)), "{greeted:?}");
    })
    .await;
}

#[tokio::test]
async fn another_server_behind_the_address_is_not_believed() {
    on_both(async |flavor| {
        let Some(one) = Server::start(flavor, 1, &[]).await else { return };
        let Some(two) = Server::start(flavor, 2, &[]).await else { return };
        let expected = two.connect().await.identity().clone();
        // Asked over TCP we stay on TCP: the first server's socket file is no way to the second.
        assert_eq!(expected.server_id, 2);
        assert_eq!(expected.port, two.port);
        // A socket path that leads to server one, where server two is meant.
        std::fs::remove_file(two.socket_path()).unwrap();
        std::os::unix::fs::symlink(one.socket_path(), two.socket_path()).unwrap();
        for target in [two.socket(), one.target()] {
            let error =
                Connection::open(&target, &account("mha"), &Tls::Off, Some(&expected), within(5.0)).await;
            let error = error.unwrap_err();
            assert!(
                matches!(&error.unseen, Unseen::WrongServer(text) if text.contains("server_id 2")),
                "{error}"
            );
        }
        let right =
            Connection::open(&two.target(), &account("mha"), &Tls::Off, Some(&expected), within(5.0)).await;
        assert_eq!(right.unwrap().identity(), &expected);
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_is_silent_and_an_open_question_hangs() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        server.signal("-STOP");
        let silent = Unseen::SilentBeforeGreeting;
        assert_eq!(looks(&server.target()).await, (silent.clone(), silent));
        assert_eq!(conn.ping(within(0.2)).await.unwrap_err().unseen, Unseen::HungAfterLogin);
        server.signal("-CONT");
        server.connect().await.ping(within(5.0)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_is_lost_at_once() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let mut conn = server.connect().await;
        server.signal("-KILL");
        let began = Instant::now();
        let gone = conn.query("SELECT SLEEP(30)", within(30.0)).await.unwrap_err();
        println!("{flavor}: {} after {:?}", gone.unseen, began.elapsed());
        assert_eq!(gone.unseen, Unseen::Lost);
        assert!(began.elapsed() < Duration::from_secs(5));
    })
    .await;
}

#[tokio::test]
async fn encryption_without_a_known_authority() {
    on_both(async |flavor| {
        let Some(server) = Server::start(flavor, 1, &[]).await else { return };
        let open = |tls: Tls| async move {
            Connection::open(&server.target(), &account("mha"), &tls, None, within(5.0)).await
        };
        let verified = open(Tls::Identity { ca: None, name: None }).await.unwrap_err();
        assert!(verified.unseen.says_nothing(), "{verified}");
    })
    .await;
}

/// This host's address on a network, where it has one: servers count no interrupted connections from loopback.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only asks which address a packet would leave from.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string())
}

#[tokio::test]
async fn greetings_never_get_this_host_blocked() {
    let Some(host) = own_address() else {
        println!("skipped: this host has no address but loopback");
        return;
    };
    on_both(async |flavor| {
        let strict = ["--bind-address=0.0.0.0", "--max-connect-errors=2"];
        let Some(server) = Server::start(flavor, 1, &strict).await else { return };
        let target = Target::Tcp { host: host.clone(), port: server.port };
        for _ in 0..10 {
            assert_eq!(greeting(&target, within(5.0)).await, Ok(()));
        }
        open(&target, 5.0).await.unwrap();
        // What would happen otherwise, lest the server changed its mind: walking away from a greeting blocks.
        let deadline = within(10.0);
        let blocked = loop {
            let mut rude = TcpStream::connect((host.as_str(), server.port)).await.unwrap();
            let _ = rude.read(&mut [0; 200]).await;
            drop(rude);
            if let Err(error) = greeting(&target, within(5.0)).await {
                break error;
            }
            assert!(Instant::now() < deadline, "never blocked");
        };
        assert!(matches!(&blocked, Unseen::AccessDenied(text) if text.starts_with("1129")), "{blocked}");
    })
    .await;
}
