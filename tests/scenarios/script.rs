//! A play's text: acts of commands, each followed by `----` and what is expected, up to a blank line and the next act.

use crate::commands;
use crate::telling::tell;
use crate::world::World;

/// Plays the text and returns it with the expectations as they came out.
pub(crate) fn run(name: &str, text: &str) -> String {
    let mut world: Option<World> = None;
    let mut played = String::new();
    let mut expecting = false;
    for (index, line) in text.lines().enumerate() {
        if expecting {
            // What was expected is replaced as a whole; a blank line ends it.
            if line.is_empty() {
                expecting = false;
                played.push('\n');
            }
            continue;
        }
        played.push_str(line);
        played.push('\n');
        if line == "----" {
            let world = world.as_mut().unwrap_or_else(|| panic!("{name}: no cluster yet"));
            played.push_str(&tell(world, name));
            expecting = true;
        } else if !line.is_empty() && !line.starts_with('#') {
            commands::perform(&mut world, line)
                .unwrap_or_else(|why| panic!("{name}:{}: {line:?}: {why}", index + 1));
        }
    }
    played
}

/// Both texts line by line, what is only wanted with `-`, what is only found with `+`.
pub(crate) fn difference(wanted: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    // Longest common subsequence: plays are short.
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let (sign, line) = if i < old.len() && j < new.len() && old[i] == new[j] {
            i += 1;
            j += 1;
            (' ', new[j - 1])
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', old[i - 1])
        } else {
            j += 1;
            ('+', new[j - 1])
        };
        out.push_str(&format!("  {sign} {line}\n"));
    }
    out
}
