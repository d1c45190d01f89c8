//! Slow links, and servers lost in pairs: what makes the ackers of one primary differ. Only seeds from [`FROM`] on have any of it, so that
//! those below stay the schedules they were when they were looked at.

use super::basics::Dice;
use super::faults::Fault;
use super::server::Tx;
use super::state::Sim;

/// Fresh seeds are above it too.
pub(crate) const FROM: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Links {
    /// Dice of their own.
    dice: Dice,
    wide: bool,
    /// By server: milliseconds that what it receives is under way.
    takes: Vec<u64>,
    /// By transaction.
    committed_at: Vec<u64>,
}

impl Links {
    pub(crate) fn of(seed: u64, members: usize) -> Self {
        let (mut dice, wide) = (Dice::new(seed ^ 0x11_4B5), seed >= FROM);
        let mut link = |_| if wide && dice.one_in(2) { dice.range(150, 2_500) } else { 0 };
        let takes = (0..members).map(&mut link).collect();
        Self { dice, wide, takes, committed_at: Vec::new() }
    }
}

impl Sim {
    pub(crate) fn note_commit(&mut self) {
        self.links.committed_at.push(self.t);
    }

    /// How long until a transaction reaches a replica, if it is still under way.
    pub(crate) fn under_way(&self, tx: Tx, replica: usize) -> Option<u64> {
        let arrives = self.links.committed_at[tx] + self.links.takes[replica];
        arrives.checked_sub(self.t).filter(|left| *left > 0)
    }

    /// What is lost in the same moment as a primary. Where the two may be most of the voters, their hosts stay.
    pub(crate) fn lost_beside(&mut self, fault: &Fault) -> Option<Fault> {
        let lost = match *fault {
            Fault::Kill(s) | Fault::Hang(s) | Fault::Freeze(s) | Fault::Power(s) | Fault::CutOff(s) => s,
            _ => return None,
        };
        let links = &mut self.links;
        if !links.wide || !links.dice.one_in(2) {
            return None;
        }
        let members = links.takes.len() as u64;
        let (other, kind) = (links.dice.below(members) as usize, links.dice.below(2));
        let hosts = self.hosts.len() > 3;
        let beside = match (hosts, kind) {
            (true, 0) => Fault::Power(other),
            (true, _) => Fault::CutOff(other),
            (false, 0) => Fault::Kill(other),
            (false, _) => Fault::Hang(other),
        };
        (self.recorded_primary() == Some(lost) && other != lost).then_some(beside)
    }
}
