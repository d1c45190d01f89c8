//! Every rule of `manager.toml`: what is written instead of what, and what is said of it.

use super::{Etc, GOOD, assert_all, assert_said, differs, outcome};

/// In [`GOOD`], the first text becomes the second.
type Edit = (&'static str, &'static str);
/// An edit, and what its errors or warnings say, in order.
type Case = (Edit, &'static [&'static str]);

const DB3: &str = "host = \"db3\"";
const AUTO: &str = "mode = \"auto\"";
const VIP: &str = "vip = { address = \"10.0.0.100/24\", interface = \"eth0\" }";
const MANAGER: &str = "[manager]\n";
const DEFAULTS: &str = "[defaults]\n";
const THIRD: &str = "[[cluster.instance]]\nhost = \"db3\"\n";
const SECOND: &str = "[[cluster.instance]]\nhost = \"db2\"\n[[cluster.instance]]\nhost = \"db3\"\n";
const REPL: &str = "replication = { user = \"mha_repl\", password = { file = \"/etc/mha/repl\" } }\n";

const KINDS: &[Case] = &[
    (
        (AUTO, "mode = 3"),
        &["`mode` is a whole number, not a text | write \"observe\" or \"manual\" or \"auto\""],
    ),
    ((AUTO, "mode = \"auto\"\nrestart = \"yes\""), &["`restart` is a text, not true or false"]),
    ((DB3, "host = 3"), &["`host` is a whole number, not a text | write host = \"…\""]),
    ((DB3, "host = \"\""), &["`host` is empty"]),
    (
        (DB3, "host = \"db3\"\nport = \"3306\""),
        &["`port` is a text, not a whole number | write a whole number from 1 to 65535"],
    ),
    ((VIP, "vip = \"10.0.0.100\""), &["`vip` is a text, not a table | write vip = { address = "]),
    ((VIP, "witnesses = \"w1\""), &["`witnesses` is a text, not a list"]),
    (
        ("[[cluster]]", "[cluster]"),
        &["`cluster` is a table, not a list of tables | write [[cluster]] with two brackets"],
    ),
    ((AUTO, "mode = \"auto\"\nmode = \"auto\""), &["duplicate key | keep one of the two"]),
    ((AUTO, "silence = 3s"), &["durations are quoted: write \"3s\""]),
];

const UNKNOWN: &[Case] = &[
    ((AUTO, "mod = \"auto\""), &["unknown key `mod` in [[cluster]] | did you mean `mode`?"]),
    (
        (MANAGER, "[manager]\nsilence = \"3s\"\n"),
        &["unknown key `silence` in [manager] | `silence` belongs in [defaults] or [[cluster]]"],
    ),
    (
        (DEFAULTS, "[defaults]\nlisten = \"3s\"\n"),
        &["unknown key `listen` in [defaults] | `listen` belongs in [manager]"],
    ),
    ((MANAGER, "[manger]\n"), &["unknown key `manger` in the file | did you mean `manager`?"]),
    (
        (DB3, "host = \"db3\"\nxyzzy = 1"),
        &[
            "unknown key `xyzzy` in [[cluster.instance]] | the keys here are host, port, promotion, zone and agent",
        ],
    ),
    (
        (AUTO, "budget = { failover = 2 }"),
        &["unknown key `failover` in `budget` | did you mean `failovers`?"],
    ),
    ((AUTO, "Renew-Every = \"500ms\""), &["did you mean `renew_every`?"]),
];

const DURATIONS: &[Case] = &[
    (
        (AUTO, "silence = \"3\""),
        &["\"3\" has no unit | write \"3s\" or \"3ms\"; the units are ms, s, m, h and d"],
    ),
    ((AUTO, "silence = 3"), &["\"3\" has no unit | write \"3s\" or \"3ms\""]),
    ((AUTO, "silence = \"-3s\""), &["\"-3s\" is negative | write a duration longer than zero"]),
    ((AUTO, "silence = -3"), &["\"-3\" is negative"]),
    ((AUTO, "silence = \"0s\""), &["\"0s\" is no time at all"]),
    (
        (AUTO, "silence = \"1.5s\""),
        &["\"1.5s\" is no whole number | write it in a smaller unit, such as \"1500ms\""],
    ),
    ((AUTO, "silence = \"3sec\""), &["\"sec\" is no unit of time | write \"3s\""]),
    ((AUTO, "silence = \"soon\""), &["\"soon\" is no duration"]),
    ((AUTO, "silence = true"), &["`silence` is true or false, not a duration"]),
    ((AUTO, "silence = 0x3d"), &["\"61\" has no unit"]),
    ((AUTO, "silence = \"99999999999999999999d\""), &["is too long"]),
    (
        (AUTO, "silence = \"2h\""),
        &["`silence` = \"2h\" is longer than makes sense | write \"200ms\" to \"10m\""],
    ),
    (
        (AUTO, "lease = \"10ms\""),
        &["`lease` = \"10ms\" is shorter than makes sense | write \"500ms\" to \"10m\""],
    ),
    ((AUTO, "budget = { window = \"1s\" }"), &["`window` = \"1s\" is shorter than makes sense"]),
];

const THRESHOLDS: &[Case] = &[
    (
        (AUTO, "lease = \"1s\""),
        &[
            "a lease of 1s renewed every 500ms ends when two renewals are lost | write lease = \"1500ms\" or longer",
        ],
    ),
    ((AUTO, "renew_every = \"1100ms\""), &["a lease of 3s renewed every 1100ms ends"]),
    (
        (AUTO, "fence_within = \"3s\""),
        &["fence_within (3s) is as long as the lease (3s) | write fence_within = \"300ms\""],
    ),
    (
        (AUTO, "ping_every = \"2s\""),
        &["one lost ping (every 2s) would be a silence of 3s | write silence = \"4s\" or longer"],
    ),
    ((AUTO, "poll_every = \"4s\""), &["silence (3s) ends before a second poll (every 4s)"]),
    ((AUTO, "heartbeat_every = \"4s\""), &["silence (3s) ends before a second heartbeat (every 4s)"]),
    (
        (AUTO, "clock_error_permille = 0"),
        &["`clock_error_permille` is out of range | write a whole number from 1 to 100"],
    ),
    ((AUTO, "budget = { failovers = 0 }"), &["`failovers` is out of range"]),
    (
        (AUTO, "acks = 3"),
        &[
            "acks = 3 can never be met: the primary does not count, and there are 3 instances | write acks = 2",
        ],
    ),
    ((AUTO, "acks = 0"), &["`acks` is out of range"]),
    (
        (AUTO, "durability = \"losless\""),
        &["`durability` cannot be \"losless\" | did you mean \"lossless\"?"],
    ),
    (
        (AUTO, "without_ackers = \"wait\""),
        &["`without_ackers` cannot be \"wait\" | write \"block\" or \"degrade\""],
    ),
    ((DEFAULTS, "[defaults]\nlease = \"1s\"\n"), &["a lease of 1s renewed every 500ms"]),
];

const MANAGERS: &[Case] = &[
    (
        ("127.0.0.1:8420", "localhost:8420"),
        &["\"localhost:8420\" is no address and port | write an IP address and a port"],
    ),
    (("127.0.0.1:8420", "127.0.0.1"), &["\"127.0.0.1\" is no address and port"]),
    (("127.0.0.1:8420", "127.0.0.1:0"), &["\"127.0.0.1:0\" has no fixed port"]),
    (
        ("127.0.0.1:8420", "0.0.0.0:8420"),
        &["lets other hosts command the manager, and there is no `token` | write token = { file"],
    ),
    (
        (MANAGER, "[manager]\ndata_dir = \"mha\"\n"),
        &["`data_dir` = \"mha\" depends on where the program is started"],
    ),
    ((MANAGER, "[manager]\non_event = {}\n"), &["`on_event` tells nobody"]),
    ((MANAGER, "[manager]\non_event = { exec = \"/etc/mha/ca.pem\" }\n"), &["is no program | chmod +x"]),
    ((MANAGER, "[manager]\non_event = { exec = \"/etc/mha/none\" }\n"), &["cannot find"]),
    ((MANAGER, "[manager]\non_event = { webhook = \"mail:me\" }\n"), &["`webhook` is no URL"]),
    (
        (MANAGER, "[manager]\non_event = { webhook = \"http://a\", exec = \"/bin/sh\" }\n"),
        &["has both `webhook` and `exec`"],
    ),
    ((MANAGER, "[manager]\nhost = \"mgr:1\"\n"), &["\"mgr:1\" is more than a host's name | write \"mgr\""]),
    (
        (MANAGER, "[manager]\nvote = \"mgr:8422\"\n"),
        &["\"mgr:8422\" is no URL of an agent | write \"http://HOST:8422\""],
    ),
    (
        (MANAGER, "[manager]\ntoken = { file = \"/etc/mha/token\", env = \"A\" }\n"),
        &["`token` has both `file` and `env`"],
    ),
    ((MANAGER, "[manager]\ntoken = {}\n"), &["`token` says neither `file` nor `env`"]),
];

const CLUSTERS: &[Case] = &[
    (("name = \"orders\"\n", ""), &["[[cluster]] has no `name`"]),
    (
        ("\"orders\"", "\"or ders\""),
        &["\"or ders\" is no name of a cluster | use letters, digits, '_' and '-'"],
    ),
    (
        (
            DB3,
            "host = \"db3\"\n[[cluster]]\nname = \"orders\"\n[[cluster.instance]]\nhost = \"e1\"\n[[cluster.instance]]\nhost = \"e2\"\n[[cluster.instance]]\nhost = \"e3\"\n",
        ),
        &["there are two clusters \"orders\""],
    ),
    (
        (
            DB3,
            "host = \"db3\"\n[[cluster]]\nname = \"b\"\nvip = { address = \"10.0.0.100/16\", interface = \"eth0\" }\n[[cluster.instance]]\nhost = \"db3\"\n[[cluster.instance]]\nhost = \"e2\"\n[[cluster.instance]]\nhost = \"e3\"\n",
        ),
        &["10.0.0.100 is the vip of cluster \"orders\" too", "db3 belongs to another cluster already"],
    ),
    (
        (DB3, "host = \"db3\"\n[[cluster]]\nname = \"b\"\n"),
        &["the cluster has no instances | write [[cluster.instance]]"],
    ),
    ((DB3, "host = \"DB2.\""), &["DB2. is listed twice"]),
    ((DB3, "host = \"db 3\""), &["holds a character no host name has"]),
    ((DB3, "host = \"db3:0\""), &["\"0\" is no port"]),
    ((DB3, "host = \"db3:3307\"\nport = 3308"), &["`port` is 3308, but `host` says 3307"]),
    (
        (DB3, "host = \"db3\"\nagent = \"db3\""),
        &["\"db3\" is no URL of an agent | write \"http://HOST:8421\""],
    ),
    (
        (DB3, "host = \"db3\"\nagent = \"http://db3\""),
        &["\"http://db3\" has no port | write \"http://db3:8421\""],
    ),
    (
        (DB3, "host = \"db3\"\nagent = \"https://db3:8421\""),
        &["https to agents is not supported by mha 0.1.0"],
    ),
    ((DB3, "host = \"db3\"\nagent = \"http://db3:8421/x\""), &["is no URL of an agent"]),
    ((DB3, "host = \"db3\"\nagent = 1"), &["`agent` is neither true, false nor a URL"]),
    ((DB3, "host = \"db3\"\nagent = \"http://db2:8421\""), &["db3 and db2 have one agent, http://db2:8421"]),
    ((DB3, "host = \"db3\"\npromotion = \"no\""), &["`promotion` cannot be \"no\""]),
    ((AUTO, "witnesses = [\"http://db1:8421\", \"http://w2:8421\"]"), &["db1 has a vote already"]),
    (
        (AUTO, "agent_tls = { ca = \"a\", cert = \"b\", key = \"c\" }"),
        &["`agent_tls` is not supported by mha 0.1.0 | remove it"],
    ),
    (
        (AUTO, "tls = \"on\""),
        &["`tls` cannot be \"on\" | write \"off\" or \"required\" or \"verify_identity\""],
    ),
    ((AUTO, "tls = \"verify_identity\""), &["needs the authority to trust | write tls = "]),
    (
        (AUTO, "tls = { mode = \"required\", ca = \"/etc/mha/ca.pem\" }"),
        &["`ca` is used only with mode = \"verify_identity\""],
    ),
    ((AUTO, "tls = { mode = \"verify_identity\", ca = \"/etc/mha/admin\" }"), &["holds no PEM certificate"]),
    ((REPL, ""), &["the cluster has no `replication` account"]),
    (
        ("agent_token = { file = \"/etc/mha/agent.token\" }", ""),
        &["the cluster's agents have no `agent_token`"],
    ),
    (("\"mha_heartbeat\"", "\"mha\""), &["`heartbeat` and `admin` are both \"mha\""]),
    (("\"mha\"", "\"mha@%\""), &["\"mha@%\" holds a host"]),
    (("\"mha\"", "\"m'ha\""), &["\"m'ha\" holds a character we never quote"]),
];

const VIPS: &[Case] = &[
    (("10.0.0.100/24", "10.0.0.100"), &["\"10.0.0.100\" has no prefix length | write \"10.0.0.100/24\""]),
    (("10.0.0.100/24", "10.0.0.100/33"), &["/33 is no prefix length | write 1 to 32"]),
    (("10.0.0.100/24", "10.0.0.0/24"), &["10.0.0.0 is the network's own address in a /24"]),
    (("10.0.0.100/24", "10.0.0.255/24"), &["10.0.0.255 is the network's broadcast address"]),
    (("10.0.0.100/24", "127.0.0.1/8"), &["clients cannot reach 127.0.0.1"]),
    (("10.0.0.100/24", "clients/24"), &["\"clients\" is no IP address"]),
    ((", interface = \"eth0\"", ""), &["`vip` has no `interface` | write interface = \"eth0\""]),
    (("\"eth0\"", "\"a-very-long-interface\""), &["is longer than the 15 characters"]),
    (("\"eth0\"", "\"eth 0\""), &["\"eth 0\" is no interface's name"]),
    ((DB3, "host = \"10.0.0.100\""), &["10.0.0.100 is the address of an instance"]),
    ((DB3, "host = \"db3\"\nagent = false"), &["db3 may lead, but has no agent to hold the vip 10.0.0.100"]),
];

const PROMOTION: &[Case] = &[(
    (
        SECOND,
        "promotion = \"never\"\n[[cluster.instance]]\nhost = \"db2\"\npromotion = \"never\"\n[[cluster.instance]]\nhost = \"db3\"\npromotion = \"never\"\n",
    ),
    &["no instance may lead"],
)];

const WARNINGS: &[Case] = &[
    (
        (
            AUTO,
            "silence = \"800ms\"\npoll_every = \"500ms\"\nheartbeat_every = \"500ms\"\nlease = \"1500ms\"\nfence_within = \"100ms\"",
        ),
        &["would be taken for a death"],
    ),
    (
        (AUTO, "lease = \"10s\""),
        &[
            "replaced only after 10300ms, when its lease and fence are surely over, whatever `silence` (3s) says",
        ],
    ),
    ((AUTO, "statement = \"1m\""), &["a statement that hangs would hold up a failover for 1m"]),
    ((AUTO, "durability = \"async\"\nacks = 1"), &["`acks` has no effect with durability = \"async\""]),
    ((AUTO, "acks = 2"), &["with 3 instances and acks = 2 the loss of any replica stops every commit"]),
    (
        (AUTO, "budget = { failovers = 50, window = \"30m\" }"),
        &["a budget of 50 failovers in 30m hardly limits them"],
    ),
    (
        (THIRD, ""),
        &[
            "2 hosts vote, an even number: the loss of any host leaves no majority, so a primary closes and none is chosen | add a third place: host",
        ],
    ),
    ((AUTO, "witnesses = [\"http://w1:8421\"]"), &["4 hosts vote, an even number: the loss of 2 hosts"]),
    ((SECOND, ""), &["with one instance there is nothing to fail over to"]),
    (
        (DB3, "host = \"db2:3307\"\nagent = \"http://db2:8431\""),
        &["2 hosts vote", "db2:3307 is on the same host as db2"],
    ),
    ((DB3, "host = \"localhost\""), &["localhost means another host on each host"]),
    ((DB3, "host = \"10.0.1.3\""), &["10.0.0.100 is not in 10.0.1.3's network /24"]),
    (
        (DB3, "host = \"db3\"\nagent = false\npromotion = \"never\""),
        &["only some instances have agents; without one: db3", "2 hosts vote"],
    ),
    (
        (
            SECOND,
            "promotion = \"never\"\n[[cluster.instance]]\nhost = \"db2\"\npromotion = \"never\"\n[[cluster.instance]]\nhost = \"db3\"\n",
        ),
        &["only one instance may lead"],
    ),
    ((VIP, "assume_dead_when_refused = true"), &["`assume_dead_when_refused` has no effect"]),
    ((VIP, "agents = false"), &["without agents nothing fences an old primary"]),
    ((VIP, "agents = false\ndurability = \"async\""), &["it will never fail over by itself"]),
    (
        (VIP, "agents = false\ndurability = \"async\"\nassume_dead_when_refused = true"),
        &["would be taken for dead, and may go on writing"],
    ),
    (("\"mha_repl\"", "\"mha\""), &["`replication` and `admin` are both \"mha\""]),
    (("\"mha_repl\"", "\"mha_heartbeat\""), &["`replication` and `heartbeat` are both"]),
];

fn edited((from, to): Edit) -> String {
    assert!(GOOD.contains(from), "{from} is not in the good text");
    GOOD.replacen(from, to, 1)
}

#[test]
fn every_mistake_is_refused_with_what_to_write_instead() {
    let etc = Etc::new();
    let all = [KINDS, UNKNOWN, DURATIONS, THRESHOLDS, MANAGERS, CLUSTERS, VIPS, PROMOTION];
    let check = |(edit, want): &Case| differs(edit.1, &outcome(etc.manager(&edited(*edit))).0, want);
    assert_all(all.into_iter().flatten().map(check).collect());
}

#[test]
fn every_risk_is_told_and_accepted() {
    let etc = Etc::new();
    let check = |(edit, want): &Case| {
        let (errors, warnings) = outcome(etc.manager(&edited(*edit)));
        differs(edit.1, &errors, &[]).or_else(|| differs(edit.1, &warnings, want))
    };
    assert_all(WARNINGS.iter().map(check).collect());
}

#[test]
fn nothing_at_all_has_no_cluster() {
    assert_said(
        "empty",
        &outcome(Etc::new().manager("")).0,
        &["there is no cluster to watch | write [[cluster]]"],
    );
}

#[test]
fn two_edits() {
    let etc = Etc::new();
    let two = edited((THIRD, ""));
    let (config, _) = etc.manager(&two.replace(MANAGER, "[manager]\nhost = \"mgr\"\n")).unwrap();
    let voters = &config.clusters[0].cluster.voters;
    assert_eq!((voters.len(), voters[2].url.as_str()), (3, "http://mgr:8422"));
    // The manager on a database host has its vote there already.
    let (_, warnings) =
        outcome(etc.manager(&two.replace(MANAGER, "[manager]\nvote = \"http://db1:8422\"\n")));
    assert_said(
        "shared",
        &warnings,
        &[
            "2 hosts vote, an even number: the loss of any host leaves no majority, so a primary closes and none is chosen | add witnesses",
        ],
    );
    // Two block only where the operator says so; three unless.
    let policy = |text: &str| etc.manager(text).unwrap().0.clusters[0].cluster.policy.clone();
    assert_eq!(policy(&two).without_ackers, crate::model::policy::WithoutAckers::Degrade);
    assert_eq!(policy(GOOD).without_ackers, crate::model::policy::WithoutAckers::Block);
    let (_, warnings) = outcome(etc.manager(&two.replace(AUTO, "without_ackers = \"block\"")));
    assert_said(
        "block",
        &warnings,
        &["2 hosts vote", "with 2 instances and acks = 1 the loss of any replica stops every commit"],
    );
    let none = etc.manager(&edited((VIP, "agents = false\nwitnesses = [\"http://w:8421\"]")));
    assert_said(
        "witnesses",
        &outcome(none).0,
        &["witnesses vote on the agents' leases, and no instance has an agent"],
    );
    etc.write("repl", &"x".repeat(33), 0o600);
    assert_said("long", &outcome(etc.manager(GOOD)).0, &["more than 32 characters is refused by MySQL"]);
}

/// Whoever holds the one token of the manager's vote may vote in every cluster that counts it.
#[test]
fn one_vote_has_one_token() {
    let etc = Etc::new();
    let second = |token: &str| {
        format!(
            "{}[[cluster]]\nname = \"users\"\n{token}[[cluster.instance]]\nhost = \"u1\"\n[[cluster.instance]]\nhost = \"u2\"\n",
            GOOD.replace(MANAGER, "[manager]\nhost = \"mgr\"\n").replace(THIRD, "")
        )
    };
    let (errors, warnings) = outcome(etc.manager(&second("")));
    assert_said("one token", &errors, &[]);
    assert_said("one token", &warnings, &[]);
    let (errors, _) = outcome(etc.manager(&second("agent_token = { file = \"/etc/mha/other\" }\n")));
    assert_said("two tokens", &errors, &["the manager's host mgr votes here and in another cluster"]);
}
