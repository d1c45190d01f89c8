//! The commands of a play, one handler each, each with an example. A line begins with a command, or with a host and what is so of it.

use std::time::Duration;

use mha::decide::failover::Isolation;
use mha::model::ballot::Generation;
use mha::model::cluster::{ClusterName, Mode, TrafficProgram, Voter};
use mha::model::extra::Remedy;
use mha::model::instance::InstanceId;
use mha::model::intent::{AtOnce, FailoverAsk, Undone};
use mha::model::policy::{Durability, WithoutAckers};
use mha::model::record::{Degraded, Parked};
use mha::model::report::SemiSync;
use mha::model::view::ClusterView;

use crate::cluster::cluster;
use crate::facts::is_so;
use crate::host::Plight;
use crate::world::{World, pair};
use crate::{events, extra, planned, topology};

/// What a command comes to, or why it says nothing.
pub(crate) type Done = Result<(), String>;

/// Does what one line of a play says.
pub(crate) fn perform(world: &mut Option<World>, line: &str) -> Done {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words[0] == "cluster" {
        *world = Some(cluster(line)?);
        return Ok(());
    }
    let world = world.as_mut().ok_or("the first command is \"cluster\"")?;
    match words.as_slice() {
        ["policy", "events", "leave"] => events::leave(world),
        [name, "events", rest @ ..] if *name != "policy" => events::said(world, name, rest),
        ["events", "are", "learned"] => events::learned(world),
        ["policy", rest @ ..] => policy(world, rest),
        ["mode", mode] => set_mode(world, mode),
        ["traffic", "program"] => traffic_program(world),
        ["wait", span] => wait(world, span),
        ["kill", name] => kill(world, name),
        ["kill-agent", name] => kill_agent(world, name),
        ["start", name] => start(world, name),
        ["stop", name] => stop(world, name),
        ["freeze", name] => freeze(world, name),
        ["host-down", name] => host_down(world, name),
        ["cut", left, right] => cut(world, left, right),
        ["heal"] => heal(world),
        ["base", "is", "of", name] => base_is_of(world, name),
        ["promoted", name] => promoted(world, name, true),
        ["promoted", name, "by", "an", "operator"] => promoted(world, name, false),
        ["returned", name, rest @ ..] => returned(world, name, rest),
        ["unregistered", name] => unregistered(world, name),
        ["degraded", why @ ..] => degraded(world, &why.join(" ")),
        ["parked", name, why @ ..] => parked(world, name, &why.join(" ")),
        ["failed-over", span, "ago"] => failed_over(world, span, -1),
        ["failed-over", span, "ahead"] => failed_over(world, span, 1),
        ["undone", name, times, why @ ..] => undone(world, name, times, &why.join(" ")),
        // `done 4 times db1 leads again`: so often in a row, without a lasting effect.
        ["done", times, "times", title @ ..] => {
            for _ in 0..number(times)? {
                world.intents.note_repeat(&title.join(" "), world.now);
            }
            Ok(())
        }
        ["also", "lost", clusters @ ..] => {
            let lost = clusters.iter().map(|name| ClusterName((*name).to_owned())).collect();
            world.intents.at_once = AtOnce { lost, ..world.intents.at_once.clone() };
            Ok(())
        }
        ["failovers", "held", "back", left] => {
            let held_back = Some(span(left)?);
            world.intents.at_once = AtOnce { limit: 10, held_back, ..world.intents.at_once.clone() };
            Ok(())
        }
        ["witnesses", "know", "generation", n] => {
            world.witnesses_accepted = Generation(number(n)?);
            Ok(())
        }
        ["configured", "lossless"] => {
            world.view.cluster.policy.durability = Durability::Lossless;
            world.view.cluster.policy.extra_transactions = Remedy::Flashback;
            Ok(())
        }
        ["voter", host, "silent"] => {
            world.silent_voters.insert((*host).to_owned());
            Ok(())
        }
        ["voter", host, "blank"] => {
            world.blank_voters.insert((*host).to_owned());
            Ok(())
        }
        ["voters", hosts @ .., "recorded"] => {
            let voters = voters(hosts);
            world.view.cluster.voters.clone_from(&voters);
            world.view.record.as_mut().ok_or("not adopted")?.voters = voters;
            Ok(())
        }
        ["voters", hosts @ .., "configured"] => {
            world.view.wanted_voters = voters(hosts);
            Ok(())
        }
        ["promotion", "of", name, "failed:", why @ ..] => {
            let (instance, now) = (instance(name)?, world.now);
            world.view.note_promotion_failed(&instance, now, &why.join(" "));
            Ok(())
        }
        ["left", what @ ..] => {
            world.intents.note_left(&[what.join(" ")]);
            Ok(())
        }
        ["manager", "restarts"] => manager_restarts(world),
        ["earlier", "manager", "proved", name, n] => earlier_manager_proved(world, name, n),
        ["forget"] => forget(world),
        ["isolated", rest @ ..] => isolated(world, rest),
        ["operator", "asks", "failover", rest @ ..] => asks_failover(world, rest),
        ["registered", name] => topology::registered(world, name),
        ["stranger", name] => topology::stranger(world, name),
        ["joined", name] => topology::joined(world, name),
        ["removed", name] => topology::removed(world, name),
        ["operator", "asks", "replica", rest @ ..] => topology::asks(world, rest),
        [name, "wished", rest @ ..] => topology::wished(world, name, rest),
        ["operator", "asks", "handoff", within] => planned::asks_handoff(world, within),
        ["operator", "asks", "switchover", rest @ ..] => planned::asks(world, rest),
        [name, "session", seconds, rest @ ..] => planned::session(world, name, seconds, rest),
        [name, "has", "no", "replication", "account"] => planned::no_replication_account(world, name),
        [name, "leaving", rest @ ..] => planned::leaving(world, name, rest),
        [name, "binlog", rest @ ..] => planned::binlog_filter(world, name, &rest.join(" ")),
        ["operator", "asks", "nothing"] => asks_nothing(world),
        ["operator", "asks", "unpark", name] => extra::asks_unpark(world, instance(name)?),
        ["operator", "asks", "what", name, "waits", "for"] => extra::asks_what_waits(world, instance(name)?),
        ["operator", "asks", "about", name, rest @ ..] => extra::asks_about(world, instance(name)?, rest),
        ["operator", "asks", "rejoin", rest @ ..] => extra::asks(world, rest),
        ["doubted", name] => extra::doubted(world, name),
        ["operator", "asks", "adoption", rest @ ..] => asks_adoption(world, rest),
        [name, fact @ ..] => {
            is_so(world, name, fact)?;
            world.observe();
            // Other facts may take back what was said of a history before; only this one means that the server did.
            if fact != ["forgets", "its", "history"] {
                world.view.forget_resets();
            }
            return Ok(());
        }
        [] => Ok(()),
    }?;
    world.observe();
    Ok(())
}

pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let n: u64 = digits.parse().map_err(|_| format!("{text:?} is no span such as 3s"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(n)),
        "s" => Ok(Duration::from_secs(n)),
        "m" => Ok(Duration::from_secs(n * 60)),
        "h" => Ok(Duration::from_secs(n * 3600)),
        _ => Err(format!("{text:?} is no span such as 3s")),
    }
}

pub(crate) fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

pub(crate) fn instance(text: &str) -> Result<InstanceId, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// `base is of db2`: the primary began to lead with what that one has now.
fn base_is_of(world: &mut World, name: &str) -> Done {
    let instance = world.host(name)?.instance.clone();
    let seen = world.view.of(&instance).and_then(|seen| seen.last_report.as_ref());
    let base = seen.map(|(_, report)| report.executed.clone()).ok_or("not seen")?;
    world.view.record.as_mut().ok_or("not adopted")?.base = Some(base);
    Ok(())
}

/// `traffic program`: the operator has one.
fn traffic_program(world: &mut World) -> Done {
    let (program, within) = ("/etc/mha/traffic".into(), Duration::from_secs(2));
    world.view.cluster.traffic = Some(TrafficProgram { program, within });
    Ok(())
}

/// Semi-sync as the record wants it: the primary armed, its followers acknowledging.
pub(crate) fn arm(world: &mut World, primary: &InstanceId) {
    let Some(record) = world.view.record.clone() else { return };
    for host in &mut world.hosts {
        let leads = host.instance == *primary;
        let acks = record.ackers.contains(&host.instance);
        host.semi_sync = SemiSync {
            available: true,
            source_enabled: leads && record.acks > 0,
            source_status: leads && record.acks > 0,
            after_sync: true,
            timeout: SemiSync::LONGEST_WAIT,
            waits_without_ackers: Some(true),
            acks: record.acks.max(1),
            clients: if leads { record.ackers.len() as u32 } else { 0 },
            replica_enabled: acks,
            replica_status: acks,
            ..SemiSync::default()
        };
    }
}

/// `policy extra_transactions park`, `policy without_ackers degrade`, `policy assume_dead_when_refused`, `policy allow_newer_primary`, `policy fenced_reads`,
/// `policy acks 2`, `policy acks 1 configured` (and not recorded yet), `policy budget 1`
fn policy(world: &mut World, words: &[&str]) -> Done {
    let policy = &mut world.view.cluster.policy;
    match words {
        ["without_ackers", "degrade"] => policy.without_ackers = WithoutAckers::Degrade,
        ["without_ackers", "block"] => policy.without_ackers = WithoutAckers::Block,
        ["assume_dead_when_refused"] => policy.assume_dead_when_refused = true,
        ["allow_newer_primary"] => policy.allow_newer_primary = true,
        ["fenced_reads"] => policy.fenced_reads = true,
        ["rebuild_nontransactional", "true"] => policy.rebuild_nontransactional = true,
        ["extra_transactions", "park"] => policy.extra_transactions = Remedy::Park,
        ["extra_transactions", "rebuild"] => policy.extra_transactions = Remedy::Rebuild,
        ["extra_transactions", "flashback"] => policy.extra_transactions = Remedy::Flashback,
        ["budget", n] => policy.budget = number(n)?,
        ["acks", n, "configured"] => policy.acks = number(n)?,
        ["acks", n] => {
            policy.acks = number(n)?;
            let acks = policy.acks;
            let record = world.view.record.as_mut().ok_or("not adopted")?;
            record.acks = acks;
            let primary = record.primary.clone();
            arm(world, &primary);
        }
        _ => return Err("unknown policy".to_owned()),
    }
    Ok(())
}

/// `earlier manager proved db1 100`: everything db1 acknowledged is among its first 100 transactions, as the failover shows that the manager
/// before this one did not end.
fn earlier_manager_proved(world: &mut World, name: &str, n: &str) -> Done {
    let count = number(n)?;
    let server = world.host(name)?.id;
    let proven = world.set(&[world.numbers(server, count)]);
    world.view.recall_proven(&instance(name)?, &proven);
    Ok(())
}

fn voters(hosts: &[&str]) -> Vec<Voter> {
    hosts.iter().map(|host| Voter { host: (*host).to_owned(), url: format!("http://{host}:8421") }).collect()
}

/// `mode manual`
fn set_mode(world: &mut World, mode: &str) -> Done {
    world.view.cluster.mode = match mode {
        "observe" => Mode::Observe,
        "manual" => Mode::Manual,
        "auto" => Mode::Auto,
        _ => return Err("observe, manual or auto".to_owned()),
    };
    Ok(())
}

/// `wait 3s`
fn wait(world: &mut World, text: &str) -> Done {
    world.wait(span(text)?);
    Ok(())
}

/// `kill db1`: its process is gone; an agent beside it sees that at once and closes the access.
fn kill(world: &mut World, name: &str) -> Done {
    let now = world.now;
    world.host(name)?.plight = Plight::Gone(now);
    Ok(())
}

/// `kill-agent db1`
fn kill_agent(world: &mut World, name: &str) -> Done {
    world.host(name)?.agent_up = false;
    Ok(())
}

/// `start db1`: its server runs again as it was, by somebody's hand.
fn start(world: &mut World, name: &str) -> Done {
    let now = world.now;
    let host = world.host(name)?;
    host.plight = Plight::Well;
    host.started_at = now;
    host.agent_up = true;
    Ok(())
}

/// `stop db1`: SIGSTOP to the server; agent and host are well.
fn stop(world: &mut World, name: &str) -> Done {
    let now = world.now;
    world.host(name)?.plight = Plight::Stopped(now);
    Ok(())
}

/// `freeze db1`: server and agent stand still, connections stay open.
fn freeze(world: &mut World, name: &str) -> Done {
    world.host(name)?.plight = Plight::Frozen;
    Ok(())
}

/// `host-down db1`: no cable.
fn host_down(world: &mut World, name: &str) -> Done {
    world.host(name)?.plight = Plight::Down;
    Ok(())
}

/// `cut manager db1`, `cut db1 db2`: neither hears the other.
fn cut(world: &mut World, left: &str, right: &str) -> Done {
    world.cuts.insert(pair(left, right));
    Ok(())
}

/// `heal`: every cable is whole, every server that ran runs.
fn heal(world: &mut World) -> Done {
    world.cuts.clear();
    for host in &mut world.hosts {
        if !matches!(host.plight, Plight::Gone(_)) {
            host.plight = Plight::Well;
        }
    }
    Ok(())
}

/// `promoted db2`: a failover to it went well; the others that answer follow it. The old primary is as it was. `promoted db2 by an operator`:
/// whose word was enough.
fn promoted(world: &mut World, name: &str, automatic: bool) -> Done {
    let leader = instance(name)?;
    let origin = world.origin;
    let bases: Vec<String> = world.hosts.iter().map(|host| world.numbers(origin, host.applied)).collect();
    let old = world.view.record.as_ref().ok_or("not adopted")?.primary.clone();
    let mut ackers = Vec::new();
    for (host, base) in world.hosts.iter_mut().zip(bases) {
        host.base.push(base);
        (host.received, host.applied) = (0, 0);
        if host.instance == leader {
            host.source = None;
            host.read_only = false;
            world.origin = host.id;
        } else if host.instance != old && host.plight == Plight::Well {
            host.source = Some(leader.clone());
            ackers.push(host.instance.clone());
        }
    }
    let at = world.wall();
    let lossless = world.view.cluster.policy.durability == Durability::Lossless;
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.note_doubt(&leader, &ackers, (u32::from(!ackers.is_empty()), ackers.is_empty()), automatic);
    record.generation = record.generation.next();
    if !record.former.contains(&old) {
        record.former.push(old);
    }
    record.primary = leader.clone();
    record.failovers.push(at);
    record.degraded = (lossless && ackers.is_empty())
        .then(|| Degraded { since: at, why: "no acker was left at the promotion".to_owned() });
    record.ackers = if lossless { ackers } else { Vec::new() };
    record.acks = u32::from(!record.ackers.is_empty());
    world.intents.failover = None;
    world.isolation = None;
    arm(world, &leader);
    world.wait(Duration::from_secs(5));
    Ok(())
}

/// `returned db1`, `returned db1 with 20 extra`, `returned db1 writable`: the host and its server are back, fenced by its agent.
fn returned(world: &mut World, name: &str, words: &[&str]) -> Done {
    let now = world.now;
    let extra = match words {
        ["with", n, "extra", ..] => number(n)?,
        _ => 0,
    };
    let id = world.host(name)?.id;
    let numbers = world.numbers(id, 100 + extra);
    let has_agent = world.view.cluster.members.iter().any(|m| m.agent.is_some() && m.instance.host == name);
    let host = world.host(name)?;
    host.plight = Plight::Well;
    host.agent_up = true;
    host.closed = has_agent;
    host.started_at = now;
    host.read_only = !words.contains(&"writable");
    host.semi_sync.source_enabled = words.contains(&"armed");
    if extra > 0 {
        host.base.push(numbers);
    }
    Ok(())
}

/// `unregistered db3`: it is not registered to acknowledge, and does not.
fn unregistered(world: &mut World, name: &str) -> Done {
    let instance = instance(name)?;
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.ackers.retain(|acker| *acker != instance);
    let primary = record.primary.clone();
    arm(world, &primary);
    Ok(())
}

/// `degraded no acker was left`
fn degraded(world: &mut World, why: &str) -> Done {
    let since = world.wall();
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.acks = 0;
    record.degraded = Some(Degraded { since, why: why.to_owned() });
    let primary = record.primary.clone();
    arm(world, &primary);
    Ok(())
}

/// `parked db3 it has transactions the primary lacks`
fn parked(world: &mut World, name: &str, why: &str) -> Done {
    let (instance, since) = (instance(name)?, world.wall());
    let record = world.view.record.as_mut().ok_or("not adopted")?;
    record.parked.push(Parked { instance, since, why: why.to_owned() });
    Ok(())
}

/// `failed-over 5m ago`: one automatic failover that counts against the budget. `failed-over 2h ahead`: the clock was set back since.
fn failed_over(world: &mut World, text: &str, sign: i32) -> Done {
    let away = chrono::Duration::from_std(span(text)?).map_err(|error| format!("{error}"))?;
    let at = world.wall() + away * sign;
    world.view.record.as_mut().ok_or("not adopted")?.failovers.push(at);
    Ok(())
}

/// `undone db1 2 the claim was refused`: so many attempts at it in a row were taken back, the last just now.
fn undone(world: &mut World, name: &str, times: &str, why: &str) -> Done {
    let instance = instance(name)?;
    let (at, times) = (world.now, number(times)?);
    world.intents.undone.retain(|undone| undone.instance != instance);
    world.intents.undone.push(Undone { instance, at, times, why: why.to_owned() });
    Ok(())
}

/// `manager restarts`: it keeps its store and knows nothing else.
fn manager_restarts(world: &mut World) -> Done {
    world.view =
        ClusterView::new(world.view.cluster.clone(), world.view.record.clone(), world.now, world.wall());
    Ok(())
}

/// `forget`: the store is lost, or the cluster was never adopted.
fn forget(world: &mut World) -> Done {
    world.view.record = None;
    manager_restarts(world)
}

/// `isolated db2 db3, fenced, log`: what isolating gave, instead of what a dry run supposes.
fn isolated(world: &mut World, words: &[&str]) -> Done {
    let text = words.join(" ");
    let mut parts = text.split(", ");
    let stopped: Vec<InstanceId> =
        parts.next().unwrap_or("").split_whitespace().map(instance).collect::<Result<_, _>>()?;
    let marks: Vec<&str> = parts.collect();
    let primary = world.view.primary().cloned().ok_or("no primary")?;
    let reports = world.hosts.iter().filter(|host| stopped.contains(&host.instance));
    let stopped = reports.map(|host| (host.instance.clone(), world.report(host))).collect();
    world.isolation = Some(Isolation {
        primary,
        fenced: marks.contains(&"fenced"),
        stopped,
        log_readable: marks.contains(&"log"),
    });
    Ok(())
}

/// `operator asks failover --to db3 --accept-loss --old-primary-is-dead`
fn asks_failover(world: &mut World, words: &[&str]) -> Done {
    let mut ask = FailoverAsk { by: "anna".to_owned(), ..FailoverAsk::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--to" => ask.to = Some(instance(words.next().ok_or("--to HOST")?)?),
            "--accept-loss" => ask.accept_loss = true,
            "--old-primary-is-dead" => ask.old_primary_is_dead = true,
            _ => return Err(format!("{word:?} is no option")),
        }
    }
    world.intents.failover = Some(ask);
    Ok(())
}

/// `operator asks nothing`
fn asks_nothing(world: &mut World) -> Done {
    world.intents.failover = None;
    Ok(())
}

/// `operator asks adoption`, `operator asks adoption db2`
fn asks_adoption(world: &mut World, words: &[&str]) -> Done {
    world.asks_adoption = Some(words.first().map(|name| instance(name)).transpose()?);
    Ok(())
}
