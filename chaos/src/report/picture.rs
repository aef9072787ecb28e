//! A timeline as a page: operations by client, strikes, leaders, views, processes that stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Failure, RunReport};
use crate::history::{OBSERVER, Operation, Outcome};
use crate::plan::Plan;
use crate::timeline::What;

const LEFT: u64 = 230;
/// What a label has room for; the rest shows when the mouse rests on it.
const LABEL_CHARS_MAX: usize = 38;
const ROW: u64 = 16;
const US_PER_PIXEL: u64 = 5_000;

/// Draws a run. Hovering shows what each bar is.
pub fn picture(plan: &Plan, report: &RunReport) -> String {
    let end_us = u64::try_from(report.simulated.as_micros())
        .unwrap_or(0)
        .max(report.events.last().map_or(0, |event| event.at_us))
        .max(report.history.iter().map(|o| o.start_us).max().unwrap_or(0));
    let mut page = Page {
        end_us,
        ..Page::default()
    };
    strikes(&mut page, report);
    leaders(&mut page, report);
    views(&mut page, report);
    operations(&mut page, report);
    page.finish(plan, report)
}

#[derive(Default)]
struct Page {
    end_us: u64,
    rows: u64,
    svg: String,
}

impl Page {
    fn row(&mut self, label: &str) -> u64 {
        let y = 20 + self.rows * ROW;
        self.rows += 1;
        let short: String = label.chars().take(LABEL_CHARS_MAX).collect();
        let (short, label) = (escape(&short), escape(label));
        let _ = writeln!(
            self.svg,
            "<text x='4' y='{}'>{short}<title>{label}</title></text>",
            y + 11
        );
        y
    }

    fn bar(&mut self, y: u64, from_us: u64, to_us: u64, class: &str, title: &str) {
        let x = LEFT + from_us / US_PER_PIXEL;
        let width = (to_us.saturating_sub(from_us) / US_PER_PIXEL).max(2);
        let _ = writeln!(
            self.svg,
            "<rect class='{class}' x='{x}' y='{y}' width='{width}' height='{}'><title>{}</title>\
             </rect>",
            ROW - 4,
            escape(title)
        );
    }

    fn finish(self, plan: &Plan, report: &RunReport) -> String {
        let width = LEFT + self.end_us / US_PER_PIXEL + 20;
        let height = 40 + self.rows * ROW;
        let mut axis = String::new();
        for second in 0..=self.end_us / 1_000_000 {
            let x = LEFT + second * 1_000_000 / US_PER_PIXEL;
            let _ = writeln!(
                axis,
                "<line x1='{x}' x2='{x}' y1='14' y2='{height}'/><text x='{x}' y='11'>{second} s\
                 </text>"
            );
        }
        let verdict = match &report.failure {
            Some(failure) => escape(&failure.to_string()),
            None => "clean".to_owned(),
        };
        let legend: Vec<String> = (0..plan.nodes)
            .map(|node| format!("<b class='lead{}'>&nbsp;</b> node {node}", node % 5))
            .collect();
        let legend = legend.join(", ");
        format!(
            "<!DOCTYPE html>\n<meta charset='utf-8'><title>{plan}</title>\n<style>\n\
             body {{ font: 13px sans-serif; }} svg text {{ font: 10px sans-serif; }}\n\
             line {{ stroke: #ddd; }} .ok {{ fill: #6a6; }} .failed {{ fill: #bbb; }}\n\
             .unknown {{ fill: #e90; }} .witness {{ fill: #d00; }} .strike {{ fill: #85c; }}\n\
             .view {{ fill: #dde; stroke: #99a; }}\n\
             .stopped {{ fill: #000; }} .lead0 {{ fill: #48c; }} .lead1 {{ fill: #4aa; }}\n\
             .lead2 {{ fill: #ca4; }} .lead3 {{ fill: #a6c; }} .lead4 {{ fill: #888; }}\n\
             b {{ display: inline-block; width: 1em; }} b.ok {{ background: #6a6; }}\n\
             b.failed {{ background: #bbb; }} b.unknown {{ background: #e90; }}\n\
             b.witness {{ background: #d00; }} b.lead0 {{ background: #48c; }}\n\
             b.lead1 {{ background: #4aa; }} b.lead2 {{ background: #ca4; }}\n\
             b.lead3 {{ background: #a6c; }} b.lead4 {{ background: #888; }}\n\
             </style>\n<h3>{plan}</h3>\n<pre>{verdict}</pre>\n\
             <p>Time runs to the right. First the faults, each with its victims (violet); then, for each \
             shard, the node that leads it ({legend}); then the views of each node, each with its number and how \
             many are members in it; then what each client asked, from the question \
             to the answer: <b class='ok'>&nbsp;</b> succeeded, <b class='failed'>&nbsp;</b> failed, \
             <b class='unknown'>&nbsp;</b> outcome unknown, <b class='witness'>&nbsp;</b> shows the \
             anomaly. Rest the mouse on a bar to see all of it.</p>\n\
             <svg width='{width}' height='{height}'>\n{axis}{}</svg>\n",
            self.svg
        )
    }
}

fn strikes(page: &mut Page, report: &RunReport) {
    let mut begun: BTreeMap<usize, (u64, &str)> = BTreeMap::new();
    let mut bars: Vec<(u64, u64, &str)> = Vec::new();
    let mut stopped: Vec<(u64, String)> = Vec::new();
    for event in &report.events {
        match &event.what {
            What::Struck { strike, what } => {
                // A fault that takes a turn for the worse has a bar for each of its parts.
                if let Some((from_us, before)) = begun.insert(*strike, (event.at_us, what)) {
                    bars.push((from_us, event.at_us, before));
                }
            }
            What::Undone { strike } => {
                if let Some((from_us, what)) = begun.remove(strike) {
                    bars.push((from_us, event.at_us, what));
                }
            }
            What::Healed => {
                for (from_us, what) in std::mem::take(&mut begun).into_values() {
                    bars.push((from_us, event.at_us, what));
                }
            }
            What::Stopped { node, why } => {
                stopped.push((event.at_us, format!("node {node}: {why}")))
            }
            What::Leads { .. } | What::Sees { .. } => {}
        }
    }
    for (from_us, what) in begun.into_values() {
        bars.push((from_us, page.end_us, what));
    }
    bars.sort_unstable();
    for (from_us, to_us, what) in bars {
        let y = page.row(what);
        page.bar(y, from_us, to_us, "strike", what);
    }
    if !stopped.is_empty() {
        let y = page.row("stopped");
        for (at_us, why) in stopped {
            page.bar(y, at_us, at_us, "stopped", &why);
        }
    }
}

fn leaders(page: &mut Page, report: &RunReport) {
    let mut shards: BTreeMap<u64, Vec<(u64, usize, u64)>> = BTreeMap::new();
    for event in &report.events {
        if let What::Leads { node, shard, term } = event.what {
            shards
                .entry(shard)
                .or_default()
                .push((event.at_us, node, term));
        }
    }
    for (shard, changes) in shards {
        let y = page.row(&format!("shard {shard} leader"));
        for (i, (from_us, node, term)) in changes.iter().enumerate() {
            let to_us = changes.get(i + 1).map_or(page.end_us, |next| next.0);
            let class = format!("lead{}", node % 5);
            page.bar(
                y,
                *from_us,
                to_us,
                &class,
                &format!("node {node}, term {term}"),
            );
        }
    }
}

fn views(page: &mut Page, report: &RunReport) {
    let mut nodes: BTreeMap<usize, Vec<(u64, u64, usize)>> = BTreeMap::new();
    for event in &report.events {
        if let What::Sees {
            node,
            view,
            members,
        } = event.what
        {
            let seen = nodes.entry(node).or_default();
            seen.push((event.at_us, view, members));
        }
    }
    for (node, changes) in nodes {
        let y = page.row(&format!("node {node} view"));
        for (i, (from_us, view, members)) in changes.iter().enumerate() {
            let to_us = changes.get(i + 1).map_or(page.end_us, |next| next.0);
            let what = format!("view {view} of {members}");
            page.bar(y, *from_us, to_us, "view", &what);
            let x = LEFT + from_us / US_PER_PIXEL + 3;
            let _ = writeln!(
                page.svg,
                "<text class='in' x='{x}' y='{}'>{view}: {members}<title>{what}</title></text>",
                y + 10
            );
        }
    }
}

fn operations(page: &mut Page, report: &RunReport) {
    let witness: &[Operation] = match &report.failure {
        Some(Failure::Anomaly(anomaly)) => &anomaly.witness,
        Some(_) | None => &[],
    };
    let shown = |operation: &Operation| {
        witness
            .iter()
            .any(|w| w.client == operation.client && w.start_us == operation.start_us)
    };
    let mut clients: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for operation in &report.history {
        clients.entry(operation.client).or_default().push(operation);
    }
    for (client, operations) in clients {
        let label = match client {
            OBSERVER => "observer".to_owned(),
            client => format!("client {client}"),
        };
        let y = page.row(&label);
        for operation in operations {
            let class = match operation.outcome {
                _ if shown(operation) => "witness",
                Outcome::Ok => "ok",
                Outcome::Failed => "failed",
                Outcome::Unknown => "unknown",
            };
            let title = serde_json::to_string(operation).unwrap_or_default();
            let to_us = operation.end_us.unwrap_or(operation.start_us + 3_000_000);
            page.bar(y, operation.start_us, to_us, class, &title);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&#39;")
}
