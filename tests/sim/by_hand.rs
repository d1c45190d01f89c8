//! What a person does on the servers themselves while something else is wrong. Only seeds from [`FROM`] on have any of it, so that those
//! below stay the schedules they were when they were looked at.

use super::basics::Dice;
use super::state::{Event, Sim};

/// Fresh seeds are above it.
pub(crate) const FROM: u64 = 1 << 40;

#[derive(Debug)]
pub(crate) struct ByHand {
    /// Dice of their own.
    dice: Dice,
    acts: bool,
}

impl ByHand {
    pub(crate) fn of(seed: u64) -> Self {
        Self { dice: Dice::new(seed ^ 0x8A_4D5), acts: seed >= FROM }
    }
}

impl Sim {
    /// Near a fault somebody restarts the replication of a server.
    pub(crate) fn somebody_acts(&mut self) {
        let members = self.servers.len() as u64;
        let hand = &mut self.by_hand;
        if hand.acts && hand.dice.one_in(3) {
            let (s, late) = (hand.dice.below(members) as usize, hand.dice.range(100, 8_000));
            self.after(late, Event::RestartedByHand(s));
        }
    }

    /// `STOP SLAVE; START SLAVE` on MariaDB, with `RESET REPLICA` between them on MySQL: what was received and not applied is thrown away.
    pub(crate) fn restart_replication(&mut self, s: usize) {
        let server = &self.servers[s];
        let replicates = server.up && server.hung_since.is_none() && server.io && server.sql;
        if self.mended || !replicates || server.source.is_none() {
            return;
        }
        self.say(format!("FAULT somebody restarts the replication of db{s}"));
        let received = !self.servers[s].relay.is_empty();
        self.count(if received {
            "received transactions thrown away by hand"
        } else {
            "replication restarted by hand"
        });
        self.stop_io(s);
        self.servers[s].sql = false;
        self.servers[s].relay.clear();
        self.servers[s].replication_statements += 1;
        self.start_sql(s);
        self.start_io(s);
    }
}
