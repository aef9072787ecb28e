use std::path::Path;

use super::{catalog::CATALOG, *};

fn flags(flags: &[(&str, &[&str])]) -> Layer {
    let entry = |&(name, values): &(&str, &[&str])| {
        let setting = catalog::find(name).expect("a setting of the catalog");
        (
            setting,
            values.iter().map(|value| (*value).to_owned()).collect(),
        )
    };
    Layer::from_flags(flags.iter().map(entry))
}

fn environment(variables: &[(&str, &str)]) -> Result<Layer, ConfigError> {
    let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
    Layer::from_environment(variables.iter().map(owned))
}

fn file(text: &str) -> Result<Layer, ConfigError> {
    Layer::from_toml(Path::new("synod.toml"), text)
}

fn settings(layers: impl IntoIterator<Item = Layer>) -> Result<Settings, ConfigError> {
    Settings::from_layers(&Layers::new(layers))
}

/// What they come to, wherever they are from.
fn values(
    layers: impl IntoIterator<Item = Layer>,
) -> Result<(ClusterSettings, ProcessSettings), ConfigError> {
    settings(layers).map(|settings| (settings.cluster, settings.process))
}

/// The message that a user sees.
fn message(result: Result<Settings, ConfigError>) -> String {
    result.expect_err("the settings are wrong").to_string()
}

#[test]
fn the_defaults_are_valid_and_every_setting_can_be_given_everywhere() {
    let defaults = values([]).expect("valid");
    for setting in CATALOG {
        let Some(default) = setting.default else {
            continue;
        };
        let flag = flags(&[(setting.name, &[default])]);
        let variable = environment(&[(&setting.variable(), default)]).expect("known");
        let line = file(&format!("{} = {default:?}", setting.name)).expect("known");
        for layer in [flag, variable, line] {
            assert_eq!(values([layer]).as_ref(), Ok(&defaults), "{}", setting.name);
        }
    }
}

#[test]
fn all_three_places_say_the_same() {
    let by_flag = flags(&[
        ("client", &["127.0.0.1:9001"]),
        ("join", &["a:1,b:2", "[::1]:3"]),
        ("label", &["zone=a", "disk=ssd"]),
        ("replicas", &["5"]),
        ("reads", &["quorum"]),
    ]);
    let by_variable = environment(&[
        ("SYNOD_CLIENT", "127.0.0.1:9001"),
        ("SYNOD_JOIN", "a:1,b:2,[::1]:3"),
        ("SYNOD_LABEL", "zone=a,disk=ssd"),
        ("SYNOD_REPLICAS", "5"),
        ("SYNOD_READS", "quorum"),
        ("SYNOD_ADDR", "not a setting of the node"),
        ("HOME", "not ours"),
    ]);
    let by_file = file(concat!(
        "client = '127.0.0.1:9001'\njoin = ['a:1', 'b:2', '[::1]:3']\n",
        "replicas = 5\nreads = 'quorum'\n[label]\nzone = 'a'\ndisk = 'ssd'\n"
    ));
    let expected = values([by_flag]).expect("valid");
    assert_eq!(expected.1.join[2].to_string(), "[::1]:3");
    assert_eq!(expected.1.labels["disk"], "ssd");
    assert_eq!(expected.0.reads, Reads::Quorum);
    assert_eq!(values(by_variable), Ok(expected.clone()));
    assert_eq!(values(by_file), Ok(expected));
}

#[test]
fn flags_over_environment_over_file_over_default() {
    let flag = flags(&[("shards", &["1"])]);
    let variable = environment(&[("SYNOD_SHARDS", "2"), ("SYNOD_REPLICAS", "5")]).expect("known");
    let file = file("shards = 3\nreplicas = 7\nheartbeat_ms = 50\n").expect("known");
    let cluster = settings([flag, variable, file]).expect("valid").cluster;
    assert_eq!(
        (cluster.shards, cluster.replicas, cluster.heartbeat_ms),
        (1, 5, 50)
    );
    assert_eq!(cluster.election_timeout_ms, 600);
}

#[test]
fn a_wrong_value_names_itself_and_where_it_came_from() {
    let cases: &[(Layer, &str)] = &[
        (
            flags(&[("client", &["7601"])]),
            "client: \"7601\" is not an address IP:PORT (from flag --client)",
        ),
        (
            environment(&[("SYNOD_SHARDS", "0")]).expect("known"),
            "shards: \"0\" is not a whole number from 1 to 4096 \
             (from environment variable SYNOD_SHARDS)",
        ),
        (
            file("shards = 8\n\nreplicas = 2\n").expect("known"),
            "replicas: \"2\" is not 1, 3, 5 or 7 (from synod.toml, line 3)",
        ),
        (
            file("reads = 'stale'").expect("known"),
            "reads: \"stale\" is neither \"lease\" nor \"quorum\" (from synod.toml, line 1)",
        ),
        (
            flags(&[("join", &["good:1", "bad"])]),
            "join: \"bad\" is not an address HOST:PORT (from flag --join)",
        ),
        (
            flags(&[("label", &["zone"])]),
            "label: \"zone\" is not a label K=V (from flag --label)",
        ),
        (
            flags(&[("label", &["zone=a", "zone=b"])]),
            "label: label \"zone\" is given twice (from flag --label)",
        ),
        (
            flags(&[("peer", &["127.0.0.1:7601"])]),
            "peer: 127.0.0.1:7601 is the client address too (from flag --peer)",
        ),
        (
            flags(&[("peer", &["0.0.0.0:7701"])]),
            "peer_advertise: must be set when peer is 0.0.0.0:7701, which no node can dial \
             (from the default)",
        ),
        (
            flags(&[("heartbeat_ms", &["500"])]),
            "election_timeout_ms: must be at least 3 times heartbeat_ms, which is 500 \
             (from the default)",
        ),
    ];
    for (layer, expected) in cases {
        assert_eq!(message(settings([layer.clone()])), *expected);
    }
}

#[test]
fn an_unknown_setting_names_itself_and_its_neighbour() {
    let variable = environment(&[("SYNOD_CLEINT", "127.0.0.1:1")]).expect_err("unknown");
    assert_eq!(
        variable.to_string(),
        "SYNOD_CLEINT: there is no such setting (from environment variable SYNOD_CLEINT); \
         did you mean SYNOD_CLIENT?"
    );
    let line = file("shards = 1\nsherds = 2\n").expect_err("unknown");
    assert_eq!(
        line.to_string(),
        "sherds: there is no such setting (from synod.toml, line 2); did you mean shards?"
    );
    let line = file("something_else = 2\n").expect_err("unknown");
    assert_eq!(
        line.to_string(),
        "something_else: there is no such setting (from synod.toml, line 1)"
    );
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let error = file("shards = 1\nreplicas = = 3\n")
        .expect_err("not TOML")
        .to_string();
    assert!(error.starts_with("synod.toml, line 2: "), "{error}");
    let error = file("shards = [1]\n").expect_err("wrong type").to_string();
    assert_eq!(error, "shards: must be N (from synod.toml, line 1)");
    let error = Layer::from_file(Path::new("/nonexistent/synod.toml")).expect_err("no file");
    let error = error.to_string();
    assert!(
        error.starts_with("cannot read the configuration file /nonexistent/synod.toml: "),
        "{error}"
    );
}

#[test]
fn a_node_adopts_what_its_cluster_was_founded_with() {
    let founded = ClusterSettings {
        reads: Reads::Quorum,
        shards: 32,
        ..ClusterSettings::default()
    };
    let silent = settings([]).expect("the defaults").adopt(&founded);
    assert_eq!(silent.expect("nothing was given").cluster, founded);
    let text = "reads = \"quorum\"\n";
    let same = settings([file(text).expect("known")])
        .expect("valid")
        .adopt(&founded);
    assert_eq!(same.expect("the same was given").cluster, founded);
    let layers = [flags(&[("shards", &["8"])]), file(text).expect("known")];
    let other = settings(layers).expect("valid").adopt(&founded);
    let error = other.expect_err("another one was given").to_string();
    for word in ["--shards", "8", "32"] {
        assert!(error.contains(word), "{error}");
    }
}
