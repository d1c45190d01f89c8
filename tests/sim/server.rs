//! A model of one server, and of replication between them: reliability.md S1-S18, design_review.md N1-N8. What is modelled is
//! what a decision turns on: which transactions are where, who waits for whom, and what a restart or a start of threads throws away.

use std::collections::VecDeque;

use mha::model::extra::Saved;
use mha::model::gtid::GtidSet;
use mha::model::instance::Flavor;

use super::state::{Event, Sim};

/// Index of a transaction in [`Sim::txs`].
pub(crate) type Tx = usize;
/// How far each origin's numbers go.
pub(crate) type Marks = [u32; 5];

/// How long a replica believes in a silent source (`replica_net_timeout`).
pub(crate) const NET_TIMEOUT: u64 = 8_000;

/// A transaction: who wrote it first, under which number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) origin: usize,
    pub(crate) number: u32,
}

/// A session whose commit waits for acknowledgements.
#[derive(Debug, Clone)]
pub(crate) struct Waiter {
    pub(crate) tx: Tx,
    pub(crate) at: usize,
    pub(crate) acked: u32,
    pub(crate) since: u64,
}

/// An I/O thread's connection to its source.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) id: u64,
    pub(crate) next: usize,
    /// When what is under way arrives.
    pub(crate) awaited: u64,
    /// It announced itself as acknowledging when it connected (N8).
    pub(crate) announced: bool,
    pub(crate) heard_at: u64,
}

/// How long a commit may wait in the engine's buffer after the client was told (`innodb_flush_log_at_timeout`; the binary log has it).
const ENGINE_FLUSH: u64 = 1_000;

#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) hung_since: Option<u64>,
    pub(crate) boot: u64,
    pub(crate) booted_at: u64,
    pub(crate) gone_at: u64,
    /// Its binlog, durable.
    pub(crate) log: Vec<Tx>,
    pub(crate) has: Vec<bool>,
    pub(crate) marks: Marks,
    /// In the log and not committed when it crashed (S6, S7).
    pub(crate) uncommitted: Vec<Tx>,
    /// When its log last grew.
    pub(crate) grew_at: u64,
    pub(crate) replication_statements: u64,
    pub(crate) relay: VecDeque<Tx>,
    pub(crate) read_only: bool,
    pub(crate) source: Option<usize>,
    pub(crate) io: bool,
    pub(crate) io_error: bool,
    pub(crate) sql: bool,
    pub(crate) stream: Option<Stream>,
    pub(crate) heartbeats: u64,
    pub(crate) stream_heard: u64,
    pub(crate) semi_replica: bool,
    pub(crate) semi_source: bool,
    pub(crate) acks: u32,
    pub(crate) waiters: Vec<Waiter>,
    /// Milliseconds one transaction takes to apply, at most.
    pub(crate) slow: u64,
    pub(crate) applying: bool,
    pub(crate) connecting: bool,
    /// What its agent saved of what the primary lacks.
    pub(crate) saved: Option<Saved>,
    /// What is left of its log when it is set back, while that is half done.
    pub(crate) kept: Vec<Tx>,
    /// It is being made read-only, and so many writers wait with that.
    pub(crate) closing: Option<u32>,
    /// How much of its log it had when its set was read again after a block.
    pub(crate) reread: Option<Vec<Tx>>,
    /// The recovery that stopped both its threads last.
    pub(crate) stopped_by: String,
}

impl Server {
    pub(crate) fn holds(&self, tx: Tx) -> bool {
        self.has.get(tx).copied().unwrap_or(false)
    }

    pub(crate) fn knows(&self, tx: Tx) -> bool {
        self.holds(tx) || self.relay.contains(&tx)
    }

    fn answers(&self) -> bool {
        self.up && self.hung_since.is_none()
    }
}

impl Sim {
    /// The process runs and is not stopped.
    pub(crate) fn answers(&self, s: usize) -> bool {
        self.servers[s].answers() && self.hosts[s].on && !self.hosts[s].frozen
    }

    pub(crate) fn set_of(&mut self, marks: Marks) -> GtidSet {
        let flavor = self.opts.flavor;
        self.sets
            .entry(marks)
            .or_insert_with(|| {
                let parts = marks.iter().enumerate().filter(|(_, n)| **n > 0).map(|(s, n)| match flavor {
                    Flavor::MariaDb => format!("0-{}-{n}", s + 1),
                    Flavor::MySql => format!("00000000-0000-0000-0000-00000000000{}:1-{n}", s + 1),
                });
                GtidSet::parse(flavor, &parts.collect::<Vec<_>>().join(","))
                    .expect("the model writes sets right")
            })
            .clone()
    }

    pub(crate) fn received_marks(&self, s: usize) -> Marks {
        let mut marks = self.executed_marks(s);
        for tx in &self.servers[s].relay {
            let Written { origin, number } = self.txs[*tx];
            marks[origin] = marks[origin].max(number);
        }
        marks
    }

    /// Replicas that announced themselves to `s`.
    pub(crate) fn ackers_of(&self, s: usize) -> impl Iterator<Item = usize> {
        let source = Some(s);
        self.servers
            .iter()
            .enumerate()
            .filter(move |(_, r)| {
                r.up && r.source == source && r.stream.as_ref().is_some_and(|c| c.announced)
            })
            .map(|(r, _)| r)
    }

    // === writing ===

    /// A client's write reaches the server. True when it was taken.
    pub(crate) fn write_at(&mut self, s: usize) -> bool {
        if self.servers[s].read_only || self.servers[s].waiters.len() >= 4 {
            return false;
        }
        if let Some(waiting) = &mut self.servers[s].closing {
            *waiting += 1;
            return false;
        }
        self.commit(s);
        true
    }

    /// A session commits.
    pub(crate) fn commit(&mut self, s: usize) {
        let number = match self.opts.flavor {
            Flavor::MySql => self.servers[s].marks[s] + 1,
            Flavor::MariaDb => self.servers[s].marks.iter().max().copied().unwrap_or(0) + 1,
        };
        self.txs.push(Written { origin: s, number });
        self.note_commit();
        let tx = self.txs.len() - 1;
        self.append(s, tx);
        let server = &mut self.servers[s];
        if server.semi_source && server.acks > 0 {
            let at = server.log.len() - 1;
            server.waiters.push(Waiter { tx, at, acked: 0, since: self.t });
        } else if self.passes(s) {
            self.acknowledge(s, tx, false);
        }
    }

    /// Into the log, and on to whoever follows.
    pub(crate) fn append(&mut self, s: usize, tx: Tx) {
        let Written { origin, number } = self.txs[tx];
        let server = &mut self.servers[s];
        server.log.push(tx);
        server.grew_at = self.t;
        if server.has.len() <= tx {
            server.has.resize(tx + 1, false);
        }
        server.has[tx] = true;
        server.marks[origin] = server.marks[origin].max(number);
        self.push_to_followers(s);
    }

    fn push_to_followers(&mut self, s: usize) {
        for r in 0..self.servers.len() {
            if self.servers[r].source == Some(s)
                && let Some(id) = self.servers[r].stream.as_ref().map(|stream| stream.id)
            {
                let delay = if self.dice.one_in(12) { self.dice.range(5, 80) } else { self.dice.range(1, 4) };
                self.after(delay, Event::Deliver { replica: r, stream: id });
            }
        }
    }

    /// Commits that wait go on; a client hears of it where bytes pass.
    pub(crate) fn release(&mut self, s: usize, proven: bool) {
        let acks = self.servers[s].acks;
        let waiters = std::mem::take(&mut self.servers[s].waiters);
        for waiter in waiters {
            if !proven || waiter.acked.count_ones() >= acks {
                if self.passes(s) && self.client_link(s) && self.answers(s) {
                    self.acknowledge(s, waiter.tx, proven);
                }
            } else {
                self.servers[s].waiters.push(waiter);
            }
        }
    }

    // === the stream ===

    /// Bytes of replication pass from `s` to `r` and back.
    fn streams(&self, s: usize, r: usize) -> bool {
        self.hosts[s].on && self.hosts[r].on && !self.cut[s][r] && !self.cut[r][s] && self.lets(s, r)
    }

    pub(crate) fn connect(&mut self, r: usize) {
        self.servers[r].connecting = false;
        let Some(s) = self.servers[r].source else { return };
        if !self.servers[r].up || !self.servers[r].io || self.servers[r].stream.is_some() {
            return;
        }
        if !self.streams(s, r) || !self.answers(s) || !self.answers(r) {
            return self.connect_later(r, 250);
        }
        let foreign = |tx: &Tx| !self.servers[s].holds(*tx);
        let diverged = self.servers[r].log.iter().chain(&self.servers[r].relay).any(foreign);
        if diverged && self.opts.flavor == Flavor::MariaDb {
            // 1236: the source does not have the replica's position, and the thread ends: it tries no second time.
            (self.servers[r].io, self.servers[r].io_error) = (false, true);
            return;
        }
        self.streams_made += 1;
        let (id, announced) = (self.streams_made, self.servers[r].semi_replica);
        self.servers[r].io_error = false;
        self.servers[r].stream = Some(Stream { id, next: 0, awaited: 0, announced, heard_at: self.t });
        self.servers[r].stream_heard = self.t;
        self.after(1, Event::Deliver { replica: r, stream: id });
        self.after(500, Event::Beat { replica: r, stream: id });
    }

    pub(crate) fn connect_later(&mut self, r: usize, delay: u64) {
        if !std::mem::replace(&mut self.servers[r].connecting, true) {
            self.after(delay, Event::Connect(r));
        }
    }

    fn live(&self, r: usize, id: u64) -> Option<usize> {
        let server = &self.servers[r];
        server.source.filter(|_| server.up && server.stream.as_ref().is_some_and(|stream| stream.id == id))
    }

    /// The source's dump thread sends what is new.
    pub(crate) fn deliver(&mut self, r: usize, id: u64) {
        let Some(s) = self.live(r, id) else { return };
        if !self.answers(s) || !self.answers(r) || !self.streams(s, r) {
            return;
        }
        let Some(mut stream) = self.servers[r].stream.clone() else { return };
        let (mut brought, before) = (0, stream.next);
        while let Some(tx) = self.servers[s].log.get(stream.next).copied() {
            if let Some(left) = self.under_way(tx, r) {
                let arrives = self.t + left;
                if std::mem::replace(&mut stream.awaited, arrives) != arrives {
                    self.after(left, Event::Deliver { replica: r, stream: id });
                }
                break;
            }
            stream.next += 1;
            if !self.servers[r].knows(tx) {
                self.servers[r].relay.push_back(tx);
                brought += 1;
            }
        }
        stream.heard_at = self.t;
        self.servers[r].stream_heard = self.t;
        let (announced, to) = (stream.announced, stream.next);
        self.servers[r].stream = Some(stream);
        if brought > 0 {
            self.apply_later(r);
        }
        // What is skipped because the replica has it counts as acknowledged, too.
        if to > before && announced {
            let delay = if self.dice.one_in(12) { self.dice.range(5, 80) } else { self.dice.range(1, 3) };
            self.after(delay, Event::Acked { source: s, replica: r, stream: id, to });
        }
    }

    /// An acknowledgement arrives: everything up to there was received.
    pub(crate) fn acked(&mut self, s: usize, r: usize, id: u64, to: usize) {
        // A connection that was closed in between may have its acknowledgement in the source's buffer already (H20).
        if !self.servers[s].up {
            return;
        }
        let sent_again = !self.streams(s, r) && self.live(r, id) == Some(s);
        if !self.streams(s, r) && !sent_again {
            return;
        }
        if sent_again || !self.answers(s) {
            return self.after(100, Event::Acked { source: s, replica: r, stream: id, to });
        }
        for waiter in &mut self.servers[s].waiters {
            if waiter.at < to {
                waiter.acked |= 1 << r;
            }
        }
        if self.servers[s].semi_source {
            self.release(s, true);
        }
    }

    /// A heartbeat of the stream, or the notice that none came.
    pub(crate) fn beat(&mut self, r: usize, id: u64) {
        let Some(s) = self.live(r, id) else { return };
        let quiet = self.servers[r].stream.as_ref().map_or(0, |stream| self.t - stream.heard_at);
        // A closed port answers with a reset; a vanished or stopped source answers nothing (S2).
        let reset = self.hosts[s].on
            && !self.cut[s][r]
            && !self.cut[r][s]
            && (!self.servers[s].up || !self.lets(s, r));
        if reset || quiet > NET_TIMEOUT {
            self.servers[r].stream = None;
            return self.connect_later(r, 30);
        }
        if self.answers(s) && self.answers(r) && self.streams(s, r) {
            let heard = self.t;
            self.servers[r].heartbeats += 1;
            self.servers[r].stream_heard = heard;
            if let Some(stream) = &mut self.servers[r].stream {
                stream.heard_at = heard;
            }
            self.deliver(r, id);
        }
        self.after(500, Event::Beat { replica: r, stream: id });
    }

    pub(crate) fn apply_later(&mut self, s: usize) {
        if !std::mem::replace(&mut self.servers[s].applying, true) {
            let burst = self.opts.bursts && (3_000..8_000).contains(&(self.t % 10_000));
            let slow = if burst { 2_500 } else { self.servers[s].slow.max(2) };
            let delay = self.dice.range(1, slow);
            self.after(delay, Event::Apply(s));
        }
    }

    pub(crate) fn apply(&mut self, s: usize) {
        self.servers[s].applying = false;
        if !self.servers[s].up || !self.servers[s].sql || self.servers[s].relay.is_empty() {
            return;
        }
        if self.answers(s)
            && let Some(tx) = self.servers[s].relay.pop_front()
            && !self.servers[s].holds(tx)
        {
            self.append(s, tx);
        }
        self.apply_later(s);
    }

    // === threads, as statements drive them ===

    /// Either thread starts; with both stopped MariaDB throws the relay log away (N1).
    fn starting(&mut self, s: usize) {
        self.servers[s].replication_statements += u64::from(self.opts.flavor == Flavor::MariaDb);
        if self.opts.flavor == Flavor::MariaDb && !self.servers[s].io && !self.servers[s].sql {
            self.purge_relay(s);
        }
    }

    pub(crate) fn start_io(&mut self, s: usize) {
        self.starting(s);
        self.servers[s].io = true;
        self.connect_later(s, 1);
    }

    pub(crate) fn start_sql(&mut self, s: usize) {
        self.starting(s);
        self.servers[s].sql = true;
        self.apply_later(s);
    }

    pub(crate) fn stop_io(&mut self, s: usize) {
        (self.servers[s].io, self.servers[s].io_error) = (false, false);
        self.servers[s].stream = None;
    }

    /// A client was told that this is kept.
    pub(crate) fn is_acked(&self, tx: Tx) -> bool {
        self.acked.iter().any(|ack| ack.tx == tx)
    }

    /// By a statement: what it throws away must be elsewhere (I8).
    pub(crate) fn purge_relay(&mut self, s: usize) {
        let lost: Vec<Tx> = std::mem::take(&mut self.servers[s].relay).into();
        for tx in lost {
            let elsewhere = (0..self.servers.len()).any(|other| other != s && self.servers[other].knows(tx));
            if !elsewhere && !self.servers[s].holds(tx) {
                self.violate(format!(
                    "I8: db{s} threw away received transaction {tx}, which is nowhere else"
                ));
            }
        }
    }

    // === the process ===

    /// The process ends without goodbye.
    pub(crate) fn crash(&mut self, s: usize) {
        if !self.servers[s].up {
            return;
        }
        self.say(format!("db{s} server dies"));
        let t = self.t;
        let server = &mut self.servers[s];
        server.uncommitted = server.waiters.drain(..).map(|waiter| waiter.tx).collect();
        // The last commit is durable in the engine with the next one's prepare, or within a second.
        let last = server.log.last().filter(|_| t < server.grew_at + ENGINE_FLUSH);
        let last = last.filter(|last| !server.uncommitted.contains(last)).copied();
        server.uncommitted.extend(last);
        (server.up, server.hung_since, server.gone_at, server.closing) = (false, None, t, None);
        (server.io, server.sql, server.stream, server.applying) = (false, false, None, false);
        // S13, N1: what was received and not applied does not survive a restart.
        server.relay.clear();
        self.after(15, Event::ProcessSeen(s));
    }

    /// The process starts: read-only, replication stopped, both semi-sync sides off.
    pub(crate) fn start(&mut self, s: usize, drop_tail: bool) {
        if self.servers[s].up || !self.hosts[s].on {
            return;
        }
        self.say(format!("db{s} server starts{}", if drop_tail { " and drops its tail" } else { "" }));
        let uncommitted = std::mem::take(&mut self.servers[s].uncommitted);
        if drop_tail && self.opts.flavor == Flavor::MariaDb && !uncommitted.is_empty() {
            self.count("tail truncated at a start as replica");
            let elsewhere =
                |tx: Tx| (0..self.servers.len()).any(|other| other != s && self.servers[other].knows(tx));
            let told = uncommitted.iter().find(|tx| self.is_acked(**tx) && !elsewhere(**tx));
            if let Some(tx) = told {
                let broken =
                    format!("I8: db{s} drops transaction {tx} at its start, which a client was told is kept");
                self.violate(broken);
            }
            let (txs, server) = (&self.txs, &mut self.servers[s]);
            server.log.retain(|tx| !uncommitted.contains(tx));
            server.marks = Marks::default();
            uncommitted.iter().for_each(|tx| server.has[*tx] = false);
            for tx in &server.log {
                let Written { origin, number } = txs[*tx];
                server.marks[origin] = server.marks[origin].max(number);
            }
        }
        let t = self.t;
        let server = &mut self.servers[s];
        server.up = true;
        server.boot += 1;
        server.replication_statements = 0;
        server.booted_at = t;
        server.read_only = true;
        (server.semi_replica, server.semi_source, server.acks) = (false, false, 1);
        self.after(15, Event::ProcessSeen(s));
    }
}
