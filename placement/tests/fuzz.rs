//! No text whatever makes the compiler panic or run out of stack.

use proptest::prelude::*;
use synod_placement::Problem;

const STATE: &str = "\
CREATE TABLE nodes (node_id TEXT PRIMARY KEY, zone TEXT, cap INTEGER, price REAL);
CREATE TABLE replicas (shard_id INTEGER, slot INTEGER, bytes INTEGER, current_node TEXT,
    controllable__node TEXT REFERENCES nodes (node_id), PRIMARY KEY (shard_id, slot));
INSERT INTO nodes VALUES ('n1', 'a', 10, 1.5), ('n2', 'b', 0, 2);
INSERT INTO replicas VALUES (1, 0, 4, NULL, NULL), (1, 1, 4, 'n1', 'n1');
";

const WORDS: [&str; 78] = [
    "select",
    "*",
    "from",
    "replicas",
    "nodes",
    "r",
    "n",
    "where",
    "group",
    "by",
    "having",
    "join",
    "on",
    "check",
    "minimize",
    "maximize",
    "weight",
    "tier",
    "create",
    "constraint",
    "view",
    "as",
    "c",
    "v",
    "(",
    ")",
    ",",
    ";",
    "controllable__node",
    "node_id",
    "zone",
    "cap",
    "price",
    "bytes",
    "slot",
    "shard_id",
    "current_node",
    "count",
    "sum",
    "min",
    "max",
    "avg",
    "distinct",
    "all_equal",
    "all_different",
    "contains",
    "exists",
    "in",
    "not",
    "and",
    "or",
    "is",
    "null",
    "between",
    "case",
    "when",
    "then",
    "else",
    "end",
    "+",
    "-",
    "*",
    "/",
    "%",
    "=",
    "<>",
    "<",
    ">=",
    "||",
    ".",
    "0",
    "1",
    "2.5",
    "'n1'",
    "'a'",
    "coalesce",
    "nullif",
    "9223372036854775807",
];

fn soup() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40).prop_map(|w| w.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn bytes(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&text).into_owned();
        let _ = Problem::load(STATE, &text);
        let _ = Problem::load(&text, "");
    }

    #[test]
    fn token_soup(text in soup()) {
        let _ = Problem::load(STATE, &text);
        let _ = Problem::load(STATE, &format!("create view v as {text}"));
        let _ = Problem::load(STATE, &format!("create constraint c as select * from replicas r check {text}"));
        let _ = Problem::load(
            STATE,
            &format!("create constraint c as select * from replicas r join nodes n on n.node_id = r.controllable__node group by r.shard_id, n.zone {text}"),
        );
    }

    #[test]
    fn mutated_policies(cut in 0usize..400, word in prop::sample::select(&WORDS[..])) {
        let policy = "create constraint c as select * from replicas r join nodes n on n.node_id = r.controllable__node \
            where r.bytes > 0 and exists (select 1 from nodes m where m.zone = n.zone and m.cap > r.bytes) \
            group by r.shard_id, n.zone having count(*) > 0 \
            check sum(r.bytes) <= 10 and avg(r.bytes) < max(r.bytes) + 1 or count(distinct n.price) in (1, 2, 3)";
        let cut = cut.min(policy.len());
        let _ = Problem::load(STATE, &format!("{} {word} {}", &policy[..cut], &policy[cut..]));
        let _ = Problem::load(STATE, &policy[..cut]);
    }
}

/// Runs on a small stack, so that recursion without a bound is found.
fn on_a_small_stack(policies: String) {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let _ = Problem::load(STATE, &policies);
            let _ = Problem::load(&policies, "");
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_megabyte_of_anything() {
    let check = "create constraint c as select * from replicas check ";
    for unit in [
        "(",
        "not ",
        "1+",
        "- ",
        "a.",
        "'",
        "\"",
        "/*",
        "case when ",
        "select ",
        "x and ",
        "((1)",
        "\u{1F980}",
        "0",
    ] {
        let garbage = unit.repeat((1 << 20) / unit.len());
        on_a_small_stack(garbage.clone());
        on_a_small_stack(format!("{check}{garbage}"));
    }
}

#[test]
fn deep_nesting_is_refused_or_compiled() {
    for depth in [10, 30, 39, 60, 400, 5000] {
        let check = "create constraint c as select * from replicas check ";
        on_a_small_stack(format!(
            "{check}{}1{}",
            "(".repeat(depth),
            ")".repeat(depth)
        ));
        on_a_small_stack(format!("{check}{}1", "not ".repeat(depth)));
        on_a_small_stack(format!("{check}1{}", "+slot".repeat(depth)));
        on_a_small_stack(format!(
            "{check}1{}",
            " and controllable__node = 'n1'".repeat(depth)
        ));
        on_a_small_stack(format!(
            "{check}{}1{}",
            "exists (select 1 from nodes where ".repeat(depth),
            ")".repeat(depth)
        ));
        on_a_small_stack(format!(
            "{check}{}1{}",
            "case when 1 then ".repeat(depth),
            " end".repeat(depth)
        ));
        on_a_small_stack(format!("{check}slot in ({}1)", "1,".repeat(depth)));
    }
}
