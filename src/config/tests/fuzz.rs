//! Whatever is written, checking it ends with a word, not a panic; and no secret is in that word.

use proptest::prelude::*;

use super::super::{ConfigErrors, check_agent_text, check_manager_text, difference};
use super::{Etc, GOOD, GOOD_AGENT};

fn check_both(text: &str) {
    let errors = [check_manager_text("a", text).err(), check_agent_text("b", text).err()];
    for error in errors.into_iter().flatten() {
        match &error {
            ConfigErrors::Wrong { mistakes, .. } => assert!(!mistakes.is_empty(), "refused without a word"),
            ConfigErrors::Unreadable { .. } => panic!("{error}"),
        }
        assert!(error.to_string().contains(": error: "));
    }
}

/// Pieces that make texts that are nearly right.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "[manager]\n",
        "[defaults]\n",
        "[[cluster]]\n",
        "[[cluster.instance]]\n",
        "[cluster]\n",
        "[server]\n",
        "[admin]\n",
        "name = ",
        "host = ",
        "port = ",
        "silence = ",
        "lease = ",
        "vip = ",
        "budget = ",
        "admin = ",
        "token = ",
        "agent = ",
        "agents = ",
        "witnesses = ",
        "vote = ",
        "listen = ",
        "tls = ",
        "on_event = ",
        "service = ",
        "acks = ",
        "promotion = ",
        "mode = ",
        "\"3s\"",
        "\"0s\"",
        "\"-1ms\"",
        "\"99999999999999999999d\"",
        "3",
        "-3",
        "0x3d",
        "1e400",
        "true",
        "\"db1\"",
        "\"[::1]:0\"",
        "\"10.0.0.1/24\"",
        "\"http://a:1\"",
        "\"http://[\"",
        "[]",
        "[\"a\", 1]",
        "{}",
        "{ file = \"/dev/zero\" }",
        "{ file = \"/proc/self/mem\" }",
        "{ env = \"PATH\" }",
        "{ env = \"a=b\" }",
        "{ failovers = 1, window = \"1h\" }",
        "{ address = \"::/0\", interface = \"\" }",
        "{ mode = \"off\", ca = 1 }",
        "\n",
        "\"é\u{301}\u{1f600}\"",
        "'''",
        "\"\"\"",
        "\r\n",
        "\u{feff}",
        "\0",
        "1979-05-27",
    ];
    prop_oneof![9 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        check_both(&text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(piece(), 0..40)) {
        check_both(&pieces.concat());
    }

    /// A good text with some of it cut out and something else put there.
    #[test]
    fn any_edit(from in 0usize..900, length in 0usize..60, put in piece(), agent in any::<bool>()) {
        let etc = Etc::new();
        let mut text = if agent { GOOD_AGENT } else { GOOD }.to_owned();
        let from = from.min(text.len());
        text.replace_range(from..(from + length).min(text.len()), &put);
        let shown = if agent {
            etc.agent(&text).map_or_else(|error| error.to_string(), |config| format!("{config:?}"))
        } else {
            etc.manager(&text).map_or_else(
                |error| error.to_string(),
                |config| format!("{config:?}{:?}", difference(&config.0, &etc.manager(GOOD).unwrap().0)),
            )
        };
        prop_assert!(!shown.contains("hunter2"), "{shown}");
    }
}
