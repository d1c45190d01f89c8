//! What a play says of one host: a line that begins with its name.

use mha::model::ballot::Generation;
use mha::model::cluster::{Member, Promotion};
use mha::model::disk::{Disk, Holds};
use mha::model::instance::Flavor;
use mha::model::inventory::PlainTables;
use mha::model::log_fault::LogFault;
use mha::model::observation::Unseen;
use mha::model::report::ThreadError;
use mha::model::restrictions::{Restrictions, Setting};

use crate::commands::{Done, instance, number, span};
use crate::extra;
use crate::host::{Host, Plight};
use crate::world::World;

/// What is so of one host; the first word is its name.
pub(crate) fn is_so(world: &mut World, name: &str, fact: &[&str]) -> Done {
    match fact {
        ["preferred"] => member(world, name, |member| member.promotion = Promotion::Prefer),
        ["never"] => member(world, name, |member| member.promotion = Promotion::Never),
        ["zone", zone] => member(world, name, |member| member.zone = Some((*zone).to_owned())),
        ["errant", n] => own_transactions(world, name, n),
        ["given", n, "of", other] => given(world, name, n, other),
        ["log", "lacks", "the", "first", n] => {
            let before = Some(world.set(&[world.numbers(world.origin, number(n)?)]));
            let (file, why) = ("binlog.000003".to_owned(), "is missing".to_owned());
            world.host(name)?.log_fault = Some(LogFault { file, why, before });
            Ok(())
        }
        ["forgets", "its", "history"] => forgets(world, name),
        ["plain", "tables", n] => {
            let tables = PlainTables { count: number(n)?, some: vec!["app.log (MyISAM)".to_owned()] };
            world.host(name)?.inventory.tables = Some(tables);
            Ok(())
        }
        ["has", "only", count] => only_own(world, name, count),
        ["saved", "is", "set", "back", "halfway"] => extra::halfway(world, name),
        ["saved", what @ ..] => extra::saved(world, name, what),
        ["rebuilt", "from", from, how @ ..] => extra::rebuilt(world, name, from, how),
        ["waiting", n, "clients", clients] => waiting(world, name, n, clients),
        ["heartbeat", "stuck"] => heartbeat_stuck(world, name),
        ["heartbeat", "moves"] => {
            world.host(name)?.heartbeat_stuck_since = None;
            Ok(())
        }
        ["commits", "take", long] => {
            let long = span(long)?;
            world.host(name)?.commit_takes = Some(long);
            Ok(())
        }
        ["leads", "to", other] => {
            let other = instance(other)?;
            world.host(name)?.leads_to = (other.host != name).then_some(other);
            Ok(())
        }
        ["agent", "leads", "to", other] => {
            world.host(name)?.agent_leads_to = (*other != name).then(|| (*other).to_owned());
            Ok(())
        }
        ["restarted"] => {
            let now = world.now;
            world.host(name)?.started_at = now;
            Ok(())
        }
        ["also", "follows", source, "with", n] => {
            let foreign = (instance(source)?, number(n)?);
            world.host(name)?.foreign = Some(foreign);
            Ok(())
        }
        ["position", "of", "domain", domain] => {
            world.host(name)?.position_only = Some(format!("{domain}-9-100"));
            Ok(())
        }
        ["fell", "back", "to", n] => {
            let host = world.host(name)?;
            host.replication_statements += 2;
            (host.received, host.applied) = (number(n)?, number(n)?);
            Ok(())
        }
        fact => {
            let host = world.host(name)?;
            let before = (host.received, host.applied);
            server_is(host, fact)?;
            let less = (host.received, host.applied) < before;
            if less { behind(world, name) } else { Ok(()) }
        }
    }
}

/// A play says that a server is behind by what it never had. That is how the world was all along, and no loss that anybody saw.
fn behind(world: &mut World, name: &str) -> Done {
    let instance = instance(name)?;
    if let Some(seen) = world.view.seen.get_mut(&instance) {
        (seen.last_report, seen.doubt) = (None, None);
    }
    Ok(())
}

fn member(world: &mut World, name: &str, change: impl Fn(&mut Member)) -> Done {
    let wanted = instance(name)?;
    let mut members = world.view.cluster.members.iter_mut();
    change(members.find(|member| member.instance == wanted).ok_or("no such member")?);
    Ok(())
}

/// `db2 errant 3`: so many transactions of its own.
fn own_transactions(world: &mut World, name: &str, count: &str) -> Done {
    let id = world.host(name)?.id;
    let numbers = world.numbers(id, number(count)?);
    world.host(name)?.base.push(numbers);
    Ok(())
}

/// `db2 given 101 of db1`: somebody commits there what db1 wrote first, under the same numbers.
fn given(world: &mut World, name: &str, count: &str, other: &str) -> Done {
    let id = world.host(other)?.id;
    let numbers = world.numbers(id, number(count)?);
    world.host(name)?.base.push(numbers);
    Ok(())
}

/// `db2 forgets its history`: somebody resets its binary log and GTIDs. A MariaDB replica keeps its position.
fn forgets(world: &mut World, name: &str) -> Done {
    let flavor = world.flavor;
    let host = world.host(name)?;
    host.log_file = 1;
    if flavor == Flavor::MySql || host.source.is_none() {
        (host.received, host.applied) = (0, 0);
        host.base.clear();
    }
    Ok(())
}

/// `db1 has only 90`: the first of what it wrote itself, and nothing else.
fn only_own(world: &mut World, name: &str, count: &str) -> Done {
    let host = world.host(name)?;
    (host.received, host.applied) = (0, 0);
    host.base.clear();
    own_transactions(world, name, count)
}

/// `db1 waiting 4 clients 2`: sessions that wait for an acknowledgement, and connected ackers.
fn waiting(world: &mut World, name: &str, waiting: &str, clients: &str) -> Done {
    let semi_sync = &mut world.host(name)?.semi_sync;
    semi_sync.waiting = number(waiting)?;
    semi_sync.clients = number(clients)?;
    world.host(name)?.clients_told = true;
    Ok(())
}

/// `db1 heartbeat stuck`: the write heartbeat in flight does not come back.
fn heartbeat_stuck(world: &mut World, name: &str) -> Done {
    let now = world.now;
    world.host(name)?.heartbeat_stuck_since = Some(now);
    Ok(())
}

/// `db2 locked out at db3` and `db2 cannot reach db3` (a receiver there), `db1 refuses`, `db1 too-many-connections`, `db2 received 100 applied 90`, `db3 applier stopped 1062 duplicate key` and so on.
fn server_is(host: &mut Host, fact: &[&str]) -> Done {
    match fact {
        ["port", "dropped"] => host.plight = Plight::Answers(Unseen::NoRoute),
        ["refuses"] => host.plight = Plight::Answers(Unseen::Refused),
        ["too-many-connections"] => host.plight = Plight::Answers(Unseen::TooManyConnections),
        ["access-denied"] => host.plight = Plight::Answers(Unseen::AccessDenied("1045".to_owned())),
        ["has-no-name"] => host.plight = Plight::Answers(Unseen::Name("NXDOMAIN".to_owned())),
        ["fails", "to", "start:", why @ ..] => host.start_failed = Some(why.join(" ")),
        ["stop", "hangs", by] => host.stop_hangs = Some(span(by)?),
        ["threads", "killed"] => {
            (host.receiver_stopped, host.applier_stopped, host.threads_killed) = (true, true, true);
        }
        ["stopped", "by", "order"] => {
            (host.receiver_stopped, host.applier_stopped, host.stopped_by_order) = (true, true, true);
        }
        ["locked", "out", "at", other] => {
            let why = Unseen::AccessDenied("4151: Access denied, this account is locked".to_owned());
            host.refused_at.push((instance(other)?, why));
        }
        ["cannot", "reach", other] => host.refused_at.push((instance(other)?, Unseen::Refused)),
        ["reaches", "everybody"] => host.refused_at.clear(),
        ["closed"] => host.closed = true,
        ["open"] => host.closed = false,
        ["writable"] => host.read_only = false,
        ["read-only"] => host.read_only = true,
        ["executed", n] => (host.received, host.applied) = (number(n)?, number(n)?),
        ["received", received, "applied", applied] => {
            (host.received, host.applied) = (number(received)?, number(applied)?);
        }
        ["purged", n] => host.purged = number(n)?,
        ["knows", "generation", n] => host.accepted = Generation(number(n)?),
        ["knows", "generation", n, "of", name] => {
            (host.accepted, host.accepted_for) = (Generation(number(n)?), Some(instance(name)?));
        }
        ["fenced", "for", "generation", n] => host.fenced = Some(Generation(number(n)?)),
        ["has", "no", "vip"] => host.has_vip = false,
        ["had", "a", "stray", "vip"] => host.stray_vip = Some(None),
        ["has", "a", "stray", "vip:", why @ ..] => host.stray_vip = Some(Some(why.join(" "))),
        ["led", "generation", n] => host.led = Some(Generation(number(n)?)),
        ["receiver", "stopped", error @ ..] => {
            host.receiver_stopped = true;
            host.receiver_error = thread_error(error)?;
        }
        ["receiver", "running"] => host.receiver_stopped = false,
        ["applier", "stopped", error @ ..] => {
            host.applier_stopped = true;
            host.applier_error = thread_error(error)?;
        }
        ["applier", "running"] => (host.applier_stopped, host.applier_error) = (false, None),
        ["delayed", by] => host.delay = span(by)?,
        ["lag", by] => host.lag = span(by)?,
        ["filtered"] => set(host, "replicate_do_db", "app")?,
        ["set", "nothing"] => {
            (host.filters, host.restrictions) = (Vec::new(), Restrictions::default());
            host.inventory.binlog_filters = Some(Vec::new());
        }
        // The statement that tells the filters of a binary log hangs, such as on a full disk.
        ["binlog", "filters", "not", "read"] => host.inventory.binlog_filters = None,
        ["set", name, "=", value @ ..] => set(host, name, &value.join(" "))?,
        ["no-binlog"] => host.log_bin = false,
        ["no-replica-updates"] => host.log_replica_updates = false,
        ["version", version] => host.version = version.parse().map_err(|error| format!("{error}"))?,
        ["follows", "nobody"] => host.source = None,
        ["follows", source] => host.source = Some(instance(source)?),
        ["semi-sync", "off"] => host.semi_sync.source_status = false,
        ["semi-sync", "on"] => host.semi_sync.source_enabled = true,
        ["semi-sync", "timeout", wait] => host.semi_sync.timeout = span(wait)?,
        ["semi-sync", "waits", "for", "nobody"] => host.semi_sync.waits_without_ackers = Some(false),
        ["answered", n, "alone"] => host.semi_sync.unacknowledged += number::<u64>(n)?,
        ["shut", "down", "while", "commits", "waited"] => host.answered_at_shutdown = true,
        ["after-commit"] => host.semi_sync.after_sync = false,
        ["agent", "cannot", "write:", why @ ..] => host.own_disk_fault = Some(why.join(" ")),
        ["heartbeat", "fails:", why @ ..] => host.heartbeat_fault = Some(why.join(" ")),
        ["agent", "can", "write"] => host.own_disk_fault = None,
        ["disk", state @ ..] => host.disk = disk(state)?,
        ["ackers", n] => (host.semi_sync.clients, host.clients_told) = (number(n)?, true),
        ["acknowledges"] => {
            (host.acknowledges_unregistered, host.semi_sync.replica_enabled) = (true, true);
        }
        _ => return Err("unknown fact".to_owned()),
    }
    Ok(())
}

/// `db2 set replicate_do_db = app`, `db2 set binlog_ignore_db = test`, `db2 set slave_exec_mode = IDEMPOTENT`,
/// `db2 set bind_address = 127.0.0.1`, `db1 set offline_mode = ON`: a setting that leaves out, passes over or refuses something.
fn set(host: &mut Host, name: &str, value: &str) -> Done {
    let setting = Setting::new(name, value);
    match name {
        "binlog_do_db" | "binlog_ignore_db" => {
            host.inventory.binlog_filters.get_or_insert_default().push(setting);
        }
        "skip_networking" | "bind_address" => host.restrictions.local_only = Some(setting),
        "offline_mode" => host.restrictions.offline = value == "ON",
        _ if name.starts_with("replicate_") && host.source.is_some() => host.filters.push(setting),
        _ if name.starts_with("replicate_") => host.restrictions.filters.push(setting),
        _ if name.contains("skip") || name.contains("exec_mode") || name.contains("ignore") => {
            host.restrictions.skips.push(setting);
        }
        _ => return Err("no setting that matters".to_owned()),
    }
    Ok(())
}

/// `db2 disk full`, `db2 disk low`, `db2 disk read-only`, `db2 disk well`, `db2 disk mounted` (right at its data): of 100 GiB.
fn disk(state: &[&str]) -> Result<Option<Disk>, String> {
    let mounted = state == ["mounted"];
    let disk = |free, read_only| {
        Some(Disk { holds: Holds::Data, free, size: 100 << 30, read_only, data_is_mount_point: mounted })
    };
    match state {
        ["full"] => Ok(disk(0, false)),
        ["low"] => Ok(disk(500 << 20, false)),
        ["read-only"] => Ok(disk(50 << 30, true)),
        ["well" | "mounted"] => Ok(disk(50 << 30, false)),
        _ => Err("a disk is full, low, read-only, well or mounted".to_owned()),
    }
}

fn thread_error(words: &[&str]) -> Result<Option<ThreadError>, String> {
    match words {
        [] => Ok(None),
        [code, text @ ..] => Ok(Some(ThreadError { code: number(code)?, text: text.join(" ") })),
    }
}
