//! How long ago a byte came from a server, by the kernel's own word (`tcpi_last_data_recv`, tcp(7)): a server's counters are read
//! once a second and tell no more than that something came since. It changes nothing.

use std::net::SocketAddr;
use std::time::Duration;

use super::diag::Diag;
use super::filter::AGENT_MARK;
use super::netlink::NetlinkError;
use super::resolve;
use crate::model::instance::InstanceId;

/// Asks again and again at little cost: a name is looked up only when nothing is connected to its last addresses.
#[derive(Debug)]
pub struct Heard {
    diag: Diag,
    last: Option<(InstanceId, Vec<SocketAddr>)>,
}

impl Heard {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { diag: Diag::open()?, last: None })
    }

    /// How long ago this host last received data from `source`, over connections other than the agent's own; `None` when it has
    /// none, or none can be found.
    pub async fn from(&mut self, source: &InstanceId) -> Option<Duration> {
        if let Some((known, addresses)) = &self.last
            && known == source
            && let Some(ago) = self.youngest(addresses).await
        {
            return Some(ago);
        }
        let addresses = resolve((source.host.as_str(), source.port)).await;
        let ago = self.youngest(&addresses).await;
        self.last = Some((source.clone(), addresses));
        ago
    }

    async fn youngest(&self, addresses: &[SocketAddr]) -> Option<Duration> {
        let mut youngest: Option<Duration> = None;
        for address in addresses {
            let ago = self.diag.heard(*address, AGENT_MARK).await.ok().flatten();
            youngest = [youngest, ago].into_iter().flatten().min();
        }
        youngest
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn it_counts_from_the_last_byte_that_came() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = InstanceId::new("localhost", listener.local_addr().unwrap().port());
        let mut heard = Heard::open().unwrap();
        assert_eq!(heard.from(&source).await, None);
        let mut replica = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let span = Duration::from_millis(300);
        tokio::time::sleep(span).await;
        let quiet = heard.from(&source).await.unwrap();
        assert!(quiet >= span - Duration::from_millis(20), "{quiet:?}");
        server.write_all(b"x").await.unwrap();
        replica.read_exact(&mut [0]).await.unwrap();
        let quiet = heard.from(&source).await.unwrap();
        assert!(quiet < span, "{quiet:?}");
    }
}
