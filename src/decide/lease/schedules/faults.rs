//! What goes wrong.

use super::Broken;
use super::world::{Event, MEMBERS, SECOND, World};
use crate::decide::lease::holder::Input;

impl World {
    pub(super) fn trouble(&mut self) {
        let next = self.t + self.dice.below(3 * SECOND);
        self.at(next, Event::Trouble);
        let host = self.dice.below(self.hosts.len() as u64) as usize;
        // Often where it is what is tried: a blank voter votes for nobody for a minute.
        let losses = if self.broken == Broken::VotesBlank { 8 } else { 80 };
        if self.dice.one_in(losses) {
            return self.lose_promises(host);
        }
        match self.dice.below(7) {
            0 => {
                let party = self.dice.below(self.cut.len() as u64) as usize;
                self.cut[party] = true;
            }
            1 | 2 => self.cut.fill(false),
            3 | 4 => self.restart_agent(host),
            5 if host < MEMBERS => {
                self.hosts[host].server_up = !self.hosts[host].server_up;
                let up = self.hosts[host].server_up;
                self.feed(host, if up { Input::ServerStarted } else { Input::ServerGone });
            }
            _ => {
                for host in 0..MEMBERS {
                    if !self.hosts[host].server_up {
                        self.hosts[host].server_up = true;
                        self.feed(host, Input::ServerStarted);
                    }
                }
            }
        }
    }
}
