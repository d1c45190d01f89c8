//! Why no acknowledgement comes: what the receivers of the primary's replicas stopped with, and the statement that mends it.

use std::collections::BTreeMap;

use super::guard::names;
use crate::model::instance::{Flavor, InstanceId, Version};
use crate::model::report::{Report, ThreadState};
use crate::model::view::ClusterView;

/// MySQL's own words for a replica's settings are new since then.
const NEW_WORDS: Version = Version::new(8, 0, 26);

/// The receivers' errors with those who have them, and what to do. Not for a primary that has no room for them: that is told apart.
pub(super) fn receivers_fail(view: &ClusterView, primary: &InstanceId) -> Option<String> {
    const TOO_MANY_CONNECTIONS: u32 = 1040;
    let mut found: BTreeMap<(u32, &str), (Vec<InstanceId>, &Report)> = BTreeMap::new();
    for (instance, seen) in view.replicas() {
        let Some(report) = seen.latest() else { continue };
        let channel = report.channel().filter(|channel| channel.source == *primary);
        let Some(channel) = channel.filter(|channel| channel.receiver != ThreadState::Running) else {
            continue;
        };
        let Some(error) = channel.receiver_error.as_ref().filter(|error| error.code != TOO_MANY_CONNECTIONS)
        else {
            continue;
        };
        let entry = found.entry((error.code, error.text.as_str())).or_insert((Vec::new(), report));
        entry.0.push(instance.clone());
    }
    let told = found.into_iter().map(|((code, text), (instances, report))| {
        let who = names(&instances);
        format!("{who} cannot receive (error {code}: {text}){}", advice(text, primary, &who, report))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then_some(told)
}

fn advice(text: &str, primary: &InstanceId, who: &str, report: &Report) -> String {
    if text.contains("locked") {
        return format!(": unlock that account on {primary} (ALTER USER … ACCOUNT UNLOCK)");
    }
    if !text.contains("max_allowed_packet") {
        return String::new();
    }
    let word = match report.identity.flavor {
        Flavor::MySql if report.identity.version >= NEW_WORDS => "replica",
        Flavor::MySql | Flavor::MariaDb => "slave",
    };
    format!(
        ": run \"SET GLOBAL {word}_max_allowed_packet = 1073741824; START {} IO_THREAD\" on {who}, and write it in their configuration",
        word.to_uppercase()
    )
}
