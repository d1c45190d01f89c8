//! What a manager sees of servers and hosts from where it stands.

use mha::model::observation::{AgentStatus, Observation, Probe, Unseen, Vantage};
use mha::model::time::Moment;
use mha::model::view::Granted;

use super::state::Sim;

/// What came of asking an agent.
pub(crate) enum Word {
    Said(Moment, Box<AgentStatus>),
    Lost(Moment),
    Silent(Moment),
}

pub(crate) fn look_at(sim: &mut Sim, m: usize, s: usize) -> (Observation, Word) {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    let seen: Result<_, Unseen> = sim.knock(party, s).map(|()| sim.report(s));
    let word = if !sim.hosts[s].on || !sim.talk(party, s) || sim.hosts[s].frozen {
        Word::Silent(at)
    } else if sim.agent_answers(s) {
        Word::Said(at, Box::new(sim.status(s)))
    } else {
        Word::Lost(at)
    };
    (Observation { of: sim.instance(s), from: Vantage::Manager, at, seen }, word)
}

pub(crate) fn probes(sim: &mut Sim, m: usize, p: usize) -> Vec<Probe> {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    (0..sim.hosts.len())
        .filter(|h| *h != p && sim.talk(party, *h) && sim.agent_answers(*h))
        .map(|h| sim.probe_from(h, p, at))
        .collect()
}

/// What voters that are no members say of their grants.
pub(crate) fn witnesses(sim: &Sim, m: usize) -> Vec<(String, Granted)> {
    let (party, at) = (sim.manager_party(m), sim.now_of_manager());
    let heard = (sim.servers.len()..sim.hosts.len()).filter(|h| sim.talk(party, *h) && sim.agent_answers(*h));
    heard
        .map(|h| {
            let ago = sim.hosts[h].agent.as_ref().and_then(|agent| agent.voter.granted_ago(sim.now_at(h)));
            (sim.host_name(h), Granted { at, generation: sim.hosts[h].promises.generation, ago })
        })
        .collect()
}
