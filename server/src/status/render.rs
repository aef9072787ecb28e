//! A report as text, for one screen.

use std::fmt::{self, Write};

use super::report::{Report, ShardReport, short};

/// Lines of the shard table before the rest is only counted.
const SHARDS_SHOWN_MAX: usize = 12;

/// The report as the text of `synod status`.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    write_report(report, &mut text).expect("writing to a string does not fail");
    text
}

/// The members as the text of `synod node list`. Where the node does not serve, it may not know the
/// latest view, and says so first.
pub fn render_members(report: &Report) -> String {
    let view = &report.view;
    let mut text = String::new();
    if !view.serving {
        text.push_str("NOT SERVING: the view below is the latest that this node knows of\n");
        for problem in &report.problems {
            text.push_str(&format!("  ! {problem}\n"));
        }
    }
    text.push_str(&format!(
        "view {} ({}), {} members\n",
        view.seq,
        short(&view.hash),
        view.members.len()
    ));
    for member in &view.members {
        let reached = match (member.id == report.node.id, member.reachable) {
            (true, _) => "this node",
            (false, true) => "reachable",
            (false, false) => "UNREACHABLE",
        };
        let votes = if member.voter { "voter" } else { "-" };
        let at = member
            .view_seq
            .map_or("?".to_owned(), |seq| seq.to_string());
        let labels: Vec<String> = member
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let line = format!(
            "{}  boot {:<4} clients {:<21} peers {:<21} {votes:<5}  {reached:<11}  view {at}  {}",
            member.id,
            member.incarnation,
            member.client,
            member.peer,
            labels.join(" ")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn write_report(report: &Report, out: &mut String) -> fmt::Result {
    let problems = report.all_problems();
    let node = &report.node;
    if problems.is_empty() {
        writeln!(out, "healthy")?;
    } else {
        writeln!(out, "NOT HEALTHY")?;
        for problem in &problems {
            writeln!(out, "  ! {problem}")?;
        }
    }
    writeln!(
        out,
        "\nnode {} (incarnation {}), version {}, up {}",
        short(&node.id),
        node.incarnation,
        node.version,
        duration(node.uptime_s)
    )?;
    let traffic = &report.traffic;
    writeln!(
        out,
        "  clients {}, {:.0} commands/s",
        traffic.clients, traffic.commands_per_s
    )?;
    let storage = &report.storage;
    writeln!(
        out,
        "  data {}, log {}, not checkpointed {}, disk free {}",
        bytes(storage.data_bytes),
        bytes(storage.log_bytes),
        bytes(storage.checkpoint_debt_bytes),
        bytes(storage.disk_free_bytes)
    )?;
    write_members(report, out)?;
    write_shards(report, out)?;
    write_placement(report, out)?;
    for running in &report.moves {
        let left = running
            .left_s
            .map(|left_s| format!(", {} left", duration(left_s)));
        let left = left.unwrap_or_default();
        writeln!(
            out,
            "moving shard {}: {}, {}%{left}",
            running.shard, running.what, running.percent
        )?;
    }
    for policy in &report.policies_violated {
        writeln!(out, "soft policy not satisfied: {policy}")?;
    }
    Ok(())
}

/// Who places replicas and leaders, what it does, and what it waits for.
fn write_placement(report: &Report, out: &mut String) -> fmt::Result {
    let Some(controller) = report.controller.as_deref() else {
        return Ok(());
    };
    let Some((first, others)) = report.placement.split_first() else {
        return Ok(());
    };
    writeln!(out, "\nplacement, by node {}: {first}", short(controller))?;
    for line in others {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn write_members(report: &Report, out: &mut String) -> fmt::Result {
    let view = &report.view;
    let reachable = view.members.iter().filter(|member| member.reachable);
    // A node that knows of no cluster has no name to tell.
    let cluster = match view.cluster.as_str() {
        "" => String::new(),
        cluster => format!(" of cluster {}", short(cluster)),
    };
    writeln!(
        out,
        "\nview {} ({}){cluster}, {} members, {} reachable from here",
        view.seq,
        short(&view.hash),
        view.members.len(),
        reachable.count()
    )?;
    for member in &view.members {
        let leads = report
            .shards
            .iter()
            .filter(|shard| shard.leader.as_ref() == Some(&member.id));
        let holds = |shard: &&ShardReport| {
            shard
                .replicas
                .iter()
                .any(|replica| replica.node == member.id)
        };
        let replicas = report.shards.iter().filter(holds).count();
        let reached = match (member.id == report.node.id, member.reachable) {
            (true, _) => "this node",
            (false, true) => "reachable",
            (false, false) => "UNREACHABLE",
        };
        let labels: Vec<String> = member
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let controls = match report.controller.as_ref() == Some(&member.id) {
            true => "controller ",
            false => "",
        };
        // Only what differs is worth the room.
        let lags = match (member.view_seq, member.view_hash.as_ref()) {
            (Some(seq), _) if seq != view.seq => format!("at view {seq}  "),
            (Some(seq), Some(hash)) if *hash != view.hash => format!("at view {seq} ({hash})  "),
            _ => String::new(),
        };
        let line = format!(
            "  {}  {:<21} {reached:<11}  leads {}, holds {replicas}  {lags}{controls}{}",
            short(&member.id),
            member.client,
            leads.count(),
            labels.join(" ")
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_shards(report: &Report, out: &mut String) -> fmt::Result {
    writeln!(out, "\n{} shards", report.shards.len())?;
    for shard in report.shards.iter().take(SHARDS_SHOWN_MAX) {
        let nodes: Vec<&str> = shard
            .replicas
            .iter()
            .map(|replica| short(&replica.node))
            .collect();
        writeln!(
            out,
            "  {:>4}  [{}, {})  epoch {}, {}  leader {}  on {}",
            shard.id,
            key(&shard.start),
            if shard.end.is_empty() {
                "end".to_owned()
            } else {
                key(&shard.end)
            },
            shard.epoch,
            bytes(shard.bytes),
            shard.leader.as_deref().map_or("unknown", short),
            nodes.join(" ")
        )?;
    }
    let more = report.shards.len().saturating_sub(SHARDS_SHOWN_MAX);
    if more > 0 {
        writeln!(out, "  … and {more} more (--json shows all)")?;
    }
    Ok(())
}

/// A key, cut so that it fits a line.
fn key(text: &str) -> String {
    const CHARS_MAX: usize = 16;
    match text.char_indices().nth(CHARS_MAX) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
    }
}

/// A size for people: three figures and a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value < 10.0) {
        (0, _) => format!("{bytes} B"),
        (_, true) => format!("{value:.1} {}", UNITS[unit]),
        (_, false) => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A time for people: the two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::*, *};

    fn sample() -> Report {
        let member = |id: &str, port: u16| Member {
            id: id.repeat(4),
            incarnation: 1,
            client: format!("127.0.0.1:{port}"),
            peer: format!("127.0.0.1:{}", port + 100),
            reachable: true,
            ..Member::default()
        };
        let replica = |id: &str| Replica {
            node: id.repeat(4),
            role: "voter".into(),
            lag_entries: None,
        };
        let shard = |id: u64, start: &str, end: &str| ShardReport {
            id,
            start: start.into(),
            end: end.into(),
            epoch: 1,
            leader: Some("aaaaaaaa".repeat(4)),
            replicas: vec![replica("aaaaaaaa"), replica("bbbbbbbb")],
            replicas_wanted: 2,
            bytes: 1_500_000,
        };
        Report {
            node: NodeReport {
                id: "aaaaaaaa".repeat(4),
                incarnation: 1,
                version: "0.1.0".into(),
                uptime_s: 75,
                ..NodeReport::default()
            },
            view: View {
                cluster: "cccccccc".repeat(4),
                seq: 2,
                hash: "0123456789".into(),
                members: vec![member("aaaaaaaa", 7601), member("bbbbbbbb", 7602)],
                serving: true,
                ..View::default()
            },
            shards: vec![shard(1, "", "m"), shard(2, "m", "")],
            traffic: TrafficReport {
                clients: 3,
                commands: 9,
                commands_per_s: 1234.5,
                ..TrafficReport::default()
            },
            ..Report::default()
        }
    }

    #[test]
    fn a_list_of_members_says_first_that_it_may_be_old() {
        let mut report = sample();
        let listed = render_members(&report);
        assert!(
            listed.starts_with("view 2 (01234567), 2 members\n"),
            "{listed}"
        );
        report.view.serving = false;
        report.problems = vec!["clients are not served here: no majority".into()];
        let old = render_members(&report);
        let first = "\
NOT SERVING: the view below is the latest that this node knows of
  ! clients are not served here: no majority
view 2 ";
        assert!(old.starts_with(first), "{old}");
        assert!(old.ends_with(listed.trim_start_matches("view 2 ")), "{old}");
    }

    #[test]
    fn a_healthy_cluster() {
        let expected = "\
healthy

node aaaaaaaa (incarnation 1), version 0.1.0, up 1 min 15 s
  clients 3, 1234 commands/s
  data 0 B, log 0 B, not checkpointed 0 B, disk free 0 B

view 2 (01234567) of cluster cccccccc, 2 members, 2 reachable from here
  aaaaaaaa  127.0.0.1:7601        this node    leads 2, holds 2
  bbbbbbbb  127.0.0.1:7602        reachable    leads 0, holds 2

2 shards
     1  [\"\", \"m\")  epoch 1, 1.4 MiB  leader aaaaaaaa  on aaaaaaaa bbbbbbbb
     2  [\"m\", end)  epoch 1, 1.4 MiB  leader aaaaaaaa  on aaaaaaaa bbbbbbbb
";
        assert_eq!(render(&sample()), expected);
    }

    #[test]
    fn who_places_and_what_it_waits_for() {
        let mut report = sample();
        report.controller = Some("bbbbbbbb".repeat(4));
        assert!(
            !render(&report).contains("placement"),
            "what it does is not known"
        );
        report.placement = vec!["decides on all shards".into(), "and waits".into()];
        let text = render(&report);
        let tail = "placement, by node bbbbbbbb: decides on all shards\n  and waits\n";
        assert!(text.ends_with(tail), "{text}");
    }

    #[test]
    fn what_is_wrong_stands_on_top_in_words() {
        let mut report = sample();
        report.view.members[1].reachable = false;
        report.shards[0].leader = None;
        report.shards[1].replicas_wanted = 3;
        report.storage.damaged_replicas = 1;
        report.problems.push("the disk is full".into());
        let text = render(&report);
        let top: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(
            top,
            [
                "NOT HEALTHY",
                "  ! the disk is full",
                "  ! node bbbbbbbb (127.0.0.1:7702) is a member and cannot be reached",
                "  ! 1 shard without a leader: unavailable: 1",
                "  ! 1 shard with fewer live replicas than wanted: 2",
                "  ! 1 replicas on this node are damaged and wait for repair",
            ]
        );
    }

    #[test]
    fn a_replica_on_a_node_that_is_gone_is_a_problem_though_no_other_is_free_to_take_it() {
        let mut report = sample();
        for shard in &mut report.shards {
            let mut gone = shard.replicas[1].clone();
            gone.node = "dddddddd".repeat(4);
            shard.replicas.push(gone);
        }
        assert_eq!(
            report.all_problems(),
            ["2 shards with a replica on a node that is no member any more: 1, 2"]
        );
        report.view.members.pop();
        assert_eq!(
            report.all_problems(),
            ["2 shards without a majority of live replicas: unavailable: 1, 2"]
        );
    }

    #[test]
    fn a_report_of_another_version_is_read() {
        let report: Report =
            serde_json::from_str(r#"{"node": {"id": "a"}, "something_new": 1}"#).expect("reads");
        assert_eq!(report.node.id, "a");
        assert!(report.view.members.is_empty());
    }
}
