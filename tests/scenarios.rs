//! Plays: what happens, `----`, what the manager thinks and plans. Decision tests an operator can read, over virtual time; and
//! properties that hold of every play nobody wrote. `UPDATE_PLAYS=1 cargo test --test scenarios` rewrites the expectations.

#[path = "scenarios/cluster.rs"]
mod cluster;
#[path = "scenarios/commands.rs"]
mod commands;
#[path = "scenarios/events.rs"]
mod events;
#[path = "scenarios/extra.rs"]
mod extra;
#[path = "scenarios/facts.rs"]
mod facts;
#[path = "scenarios/host.rs"]
mod host;
#[path = "scenarios/planned.rs"]
mod planned;
#[path = "scenarios/properties.rs"]
mod properties;
#[path = "scenarios/script.rs"]
mod script;
#[path = "scenarios/telling.rs"]
mod telling;
#[path = "scenarios/topology.rs"]
mod topology;
#[path = "scenarios/world.rs"]
mod world;

use std::path::{Path, PathBuf};

#[test]
fn plays() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 40, "only {} plays were found in {}", files.len(), folder.display());
    let update = std::env::var_os("UPDATE_PLAYS").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let wanted = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = script::run(&name, &wanted);
        if found == wanted {
            continue;
        }
        if update {
            std::fs::write(&file, found).unwrap();
        } else {
            wrong.push(format!("{name}:\n{}", script::difference(&wanted, &found)));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} play(s) end otherwise (UPDATE_PLAYS=1 rewrites them):\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
