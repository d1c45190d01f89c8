//! Extra transactions in the model: saved by the agent, taken out of a server's log in two halves that a death may part.

use mha::model::extra::Saved;
use mha::model::gtid::GtidSet;
use mha::model::instance::Flavor;

use super::host::Filter;
use super::server::{Marks, Tx, Written};
use super::state::Sim;

impl Sim {
    fn single(&self, tx: Tx) -> GtidSet {
        let Written { origin, number } = self.txs[tx];
        let text = match self.opts.flavor {
            Flavor::MariaDb => format!("0-{}-{number}", origin + 1),
            Flavor::MySql => format!("00000000-0000-0000-0000-00000000000{}:{number}", origin + 1),
        };
        GtidSet::single(self.opts.flavor, &text).expect("the model names transactions right")
    }

    /// The agent on `h` saves what its server has of `extra`. Now and then their rows cannot be put back.
    pub(crate) fn save_extra(&mut self, h: usize, extra: &GtidSet) -> Result<(), String> {
        let wanted: Vec<Tx> =
            self.servers[h].log.iter().copied().filter(|tx| extra.contains(&self.single(*tx))).collect();
        if wanted.is_empty() {
            return Err("nothing of it is in the log".to_owned());
        }
        self.count("extra transactions saved");
        let obstacle = self.dice.one_in(4).then(|| "a statement".to_owned());
        self.servers[h].saved = Some(Saved {
            set: extra.clone(),
            transactions: wanted.len() as u64,
            tables: Vec::new(),
            statements: u64::from(obstacle.is_some()),
            first_at: None,
            last_at: None,
            benign: false,
            obstacle,
            file: "extra".to_owned(),
            sha256: String::new(),
            rewinding: None,
        });
        Ok(())
    }

    /// The server forgets its whole history; what is kept of it comes back with [`Self::rewind_end`].
    pub(crate) fn rewind_begin(&mut self, h: usize, extra: &GtidSet, keep: &GtidSet) -> Result<(), String> {
        if !self.answers(h) {
            return Err("no server runs here".to_owned());
        }
        if self.hosts[h].filter != Filter::Closed || !self.servers[h].read_only {
            self.violate(format!("I8: db{h} is set back while clients reach it"));
        }
        let saved = self.servers[h].saved.clone().filter(|saved| saved.set == *extra);
        let Some(saved) = saved else {
            let done = self.report(h).executed == *keep;
            return if done { Ok(()) } else { Err("it is not saved".to_owned()) };
        };
        if saved.rewinding.is_some() {
            return Ok(());
        }
        let gone: Vec<Tx> =
            self.servers[h].log.iter().copied().filter(|tx| extra.contains(&self.single(*tx))).collect();
        let primary = self.opened.last().map_or(0, |opened| opened.server);
        let told = gone.iter().find(|tx| self.is_acked(**tx) && !self.servers[primary].knows(**tx));
        if let Some(tx) = told {
            self.violate(format!(
                "I8: db{h} is set back over transaction {tx}, which a client was told is kept"
            ));
        }
        self.count("set back");
        let server = &mut self.servers[h];
        server.saved = Some(Saved { rewinding: Some(keep.clone()), ..saved });
        server.kept = std::mem::take(&mut server.log);
        server.kept.retain(|tx| !gone.contains(tx));
        server.has.iter_mut().for_each(|has| *has = false);
        server.marks = Marks::default();
        Ok(())
    }

    pub(crate) fn rewind_end(&mut self, h: usize) -> Result<(), String> {
        if !self.answers(h) {
            return Err("no server runs here".to_owned());
        }
        if self.servers[h].saved.take().is_some() {
            for tx in std::mem::take(&mut self.servers[h].kept) {
                self.append(h, tx);
            }
        }
        Ok(())
    }
}
