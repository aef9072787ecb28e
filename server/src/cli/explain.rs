//! `synod explain`: why a shard is where it is.

use std::collections::BTreeMap;
use std::process::ExitCode;

use synod_client::Options;

use super::{Failure, address::Server, asked, controller, question, read, report};
use crate::controller::review::{Elsewhere, Explained, Place};
use crate::status::{Report, short};

/// Other places of one replica that are shown, and rows of one place.
const PLACES_SHOWN_MAX: usize = 8;
const ROWS_SHOWN_MAX: usize = 3;

/// `synod explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {
    #[command(flatten)]
    server: Server,
    /// A shard's number, or a key
    what: String,
    /// It is a key, though it is the number of a shard
    #[arg(long)]
    key: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut command = question("EXPLAIN");
        if self.key {
            command = command.arg("KEY");
        }
        let command = command.arg(&self.what);
        let (json, report) = super::runtime()?.block_on(async {
            let options = Options {
                call_timeout: super::policy::PATIENCE,
                ..Options::default()
            };
            let server = controller(&self.server).await?;
            let mut client = server.client_with(options);
            let json = asked(&mut client, &command).await?;
            Ok::<_, Failure>((json, report(&mut client).await?))
        })?;
        if self.json {
            println!("{}", String::from_utf8_lossy(&json));
            return Ok(ExitCode::SUCCESS);
        }
        let explained: Explained = read(&json, "the answer")?;
        print!("{}", render(&explained, &report));
        Ok(ExitCode::SUCCESS)
    }
}

/// The explanation for people.
fn render(explained: &Explained, report: &Report) -> String {
    let members = report.view.members.iter();
    let zones: BTreeMap<&str, &str> = members
        .filter_map(|it| Some((it.id.as_str(), it.labels.get("zone")?.as_str())))
        .collect();
    let named = |id: &str| match zones.get(id) {
        Some(zone) => format!("{} (zone {zone})", short(id)),
        None => short(id).to_owned(),
    };
    let mut text = format!(
        "shard {}, by policies of version {}\n",
        explained.shard, explained.version
    );
    for line in &explained.moving {
        text.push_str(&format!("  {line}\n"));
    }
    for place in &explained.places {
        let what = match place.slot {
            Some(slot) => format!("replica {slot}"),
            None => "leader".to_owned(),
        };
        let node = place
            .node
            .as_deref()
            .map_or("nowhere yet".to_owned(), named);
        text.push_str(&format!("{what} on {node}\n"));
        write_place(&mut text, place, &named);
    }
    text
}

fn write_place(text: &mut String, place: &Place, named: &dyn Fn(&str) -> String) {
    if !place.breaks.is_empty() {
        text.push_str(&format!("  breaks {}\n", some(&place.breaks)));
    }
    if !place.held_by.is_empty() {
        text.push_str(&format!("  held there by {}\n", place.held_by.join(", ")));
    }
    for other in place.elsewhere.iter().take(PLACES_SHOWN_MAX) {
        let why = reasons(other);
        text.push_str(&format!("  not on {}: {why}\n", named(&other.node)));
    }
    let more = place.elsewhere.len().saturating_sub(PLACES_SHOWN_MAX);
    if more > 0 {
        text.push_str(&format!("  … and {more} more nodes (--json shows all)\n"));
    }
}

fn reasons(other: &Elsewhere) -> String {
    let mut reasons = Vec::new();
    if !other.breaks.is_empty() {
        reasons.push(format!("breaks {}", some(&other.breaks)));
    }
    if !other.repairs.is_empty() {
        reasons.push(format!("mends {}", some(&other.repairs)));
    }
    for cost in &other.costs {
        let names = cost.policies.join(" + ");
        reasons.push(match cost.change > 0.0 {
            true => format!("costs {} of {names} (tier {})", cost.change, cost.tier),
            false => format!("gains {} of {names} (tier {})", -cost.change, cost.tier),
        });
    }
    match reasons.is_empty() {
        true => "as good as here, and nothing moves without a gain".to_owned(),
        false => reasons.join("; "),
    }
}

fn some(rows: &[String]) -> String {
    let shown = rows.get(..ROWS_SHOWN_MAX).unwrap_or(rows).join(", ");
    match rows.len().saturating_sub(ROWS_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::review::Cost;
    use crate::status::{Member, View};

    #[test]
    fn every_other_place_says_what_it_would_break_or_cost() {
        let member = |id: &str, zone: &str| Member {
            id: id.repeat(8),
            labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
            ..Member::default()
        };
        let report = Report {
            view: View {
                members: vec![member("aaaa", "a"), member("bbbb", "b")],
                ..View::default()
            },
            ..Report::default()
        };
        let explained = Explained {
            shard: 3,
            version: 2,
            moving: vec!["moving (50% done): a replica".to_owned()],
            places: vec![Place {
                slot: Some(0),
                node: Some("aaaa".repeat(8)),
                breaks: Vec::new(),
                held_by: vec!["zone_spread".to_owned()],
                elsewhere: vec![Elsewhere {
                    node: "bbbb".repeat(8),
                    breaks: vec!["zone_spread[zone=b]".to_owned()],
                    repairs: Vec::new(),
                    costs: vec![Cost {
                        tier: 1,
                        policies: vec!["balance_bytes".to_owned()],
                        change: 20.0,
                    }],
                }],
            }],
        };
        assert_eq!(
            render(&explained, &report),
            "shard 3, by policies of version 2\n  moving (50% done): a replica\n\
             replica 0 on aaaaaaaa (zone a)\n  held there by zone_spread\n  \
             not on bbbbbbbb (zone b): breaks zone_spread[zone=b]; costs 20 of balance_bytes (tier 1)\n"
        );
    }
}
