//! What the command says about itself.

/// How the command is used.
pub const USAGE: &str = "\
usage: placement solve|plan|explain|whatif|check --state STATE.sql --policies POLICIES.sql
         [--time-limit-ms N] [--solver auto|search|exact|flow|greedy] [--seed N] [--threads N]
         [--solutions N] [--json]
       explain: --table T --key JSON [--column C]
       whatif:  [--change SQL]... [--new-policies FILE] [--table T --key JSON [--column C]]
       check:   [--candidate FILE] [--force]
       placement VERB --help tells more of one verb
";

const INPUTS: &str = "
  --state FILE         CREATE TABLE and INSERT statements (SQLite). Columns controllable__NAME are decided: they
                       REFERENCE a table, or have a CHECK (... IN (...)). They hold the present value, or NULL.
  --policies FILE      CREATE VIEW and CREATE CONSTRAINT statements; may be given several times.
";

const SOLVING: &str = "
  --time-limit-ms N    answer with the best found after this time (default: budgets of work, not of time)
  --solver NAME        auto (search, and proofs where they are within reach; the default), search, exact,
                       or a baseline: flow, greedy
  --seed N             of the search's random choices; the same seed and one thread give the same answer
  --threads N          searches side by side; the best answer counts
";

const EXITS: &str = "
exit codes: 0 decided, 2 bad input, 3 infeasible, refused or no safe order, 4 unknown: neither an answer nor a proof
within the budget
";

/// The help on a verb, or on the whole command.
pub(super) fn help(verb: Option<&str>) -> String {
    let about = match verb {
        Some("solve") => {
            "placement solve: decide all decisions, say how good that is, or why it cannot be.

An answer is optimal, feasible (with what each tier cannot be below), infeasible (with policy rows that cannot hold
together), or unknown.

  --solutions N        also list up to N distinct best solutions
  --json               {\"status\", \"tiers\", \"assignments\", \"core\", \"stats\"}, and \"solutions\" where asked for"
        }
        Some("plan") => {
            "placement plan: decide, and put what changes in an order in which every step keeps the hard policies.

A replica that moves counts at both ends until it has moved. Where there is no such order, the rows in the way are
named.

  --json               {\"status\", \"steps\": [[{\"table\", \"key\", \"column\", \"from\", \"to\"}]], \"blocked_by\"}"
        }
        Some("explain") => {
            "placement explain: for one row, each value that it could have: which policy rows that would break or
repair, and what it would cost in which tier. Prints JSON.

  --table T            the table of the decision
  --key JSON           its primary key, as an object: {\"shard_id\": 1, \"slot\": 0}
  --column C           the decision column, where the table has several"
        }
        Some("whatif") => {
            "placement whatif: solve (or explain one row) as things are, and as they would be. Nothing is applied.

  --change SQL         a changed state: \"DELETE FROM nodes WHERE node_id = 'n3'\"; may be given several times
  --new-policies FILE  policies that would be added, or take the place of others (CREATE OR REPLACE)
  --table T --key JSON [--column C]
                       explain this row instead of solving
  --json               {\"before\", \"after\"}, each as solve prints it"
        }
        Some("check") => {
            "placement check: may a policy join the others? It is checked against the state, the loss of each single
node and of each zone, and refused only for what it makes infeasible. Prints JSON: the rows in conflict, and the fewest
to give up.

  --candidate FILE     the policy that would join; without it all policies are taken as new
  --force              accept what is not proved within the budget"
        }
        Some(_) | None => {
            "placement: decides where things go, from SQL: tables in, policies in, decisions out.

  solve                decide, and say how good the decision is, or why there is none
  plan                 decide, and order the changes into safe steps
  explain              why a row is where it is, and not elsewhere
  whatif               the same with changed rows or policies, applying nothing
  check                may a policy join the others?

placement VERB --help tells more of one verb."
        }
    };
    let solving = match verb {
        Some("explain") => "",
        Some(_) | None => SOLVING,
    };
    format!("{about}\n{INPUTS}{solving}{EXITS}")
}

/// Whether help is asked for, and on which verb.
pub(super) fn asked(args: &[String]) -> Option<Option<&str>> {
    let is_help = |arg: &String| arg == "--help" || arg == "-h" || arg == "help";
    let verb = args.iter().find(|arg| !is_help(arg)).map(String::as_str);
    let first = args.first().is_some_and(|arg| arg == "help");
    let flag = args.iter().any(|arg| arg == "--help" || arg == "-h");
    (first || flag).then_some(verb)
}
