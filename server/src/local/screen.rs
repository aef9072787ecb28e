//! What `synod local` prints: a line for each node, kept up to date on a terminal; elsewhere a line
//! whenever something that matters has changed.

use std::io::{self, IsTerminal, Write};

use super::{State, Supervised, layout::Layout, watch::Summary};

/// The output.
pub struct Screen {
    is_terminal: bool,
    dir: String,
    addresses: Vec<String>,
    /// Lines of the node table that stand above the cursor.
    lines_shown: usize,
    /// What was last printed of each node, where nothing can be overwritten.
    last: Vec<String>,
}

impl Screen {
    /// For this cluster, on stdout.
    pub fn new(layout: &Layout) -> Self {
        Screen {
            is_terminal: io::stdout().is_terminal(),
            dir: layout.dir.display().to_string(),
            addresses: layout
                .nodes
                .iter()
                .map(|node| node.client.to_string())
                .collect(),
            lines_shown: 0,
            last: vec![String::new(); layout.nodes.len()],
        }
    }

    /// What to know before the first node is up.
    pub fn banner(&mut self) {
        let nodes = self.addresses.len();
        self.say(&format!("{nodes} nodes, data and logs in {}", self.dir));
        let port = self.addresses[0]
            .rsplit(':')
            .next()
            .unwrap_or_default()
            .to_owned();
        self.say(&format!(
            "try: redis-cli -p {port} set k v    Ctrl-C stops the cluster"
        ));
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) {
        // The table is printed anew below it.
        self.lines_shown = 0;
        print(&format!("{line}\n"));
    }

    /// The nodes as they are now.
    pub(super) fn show(&mut self, nodes: &[Supervised]) {
        if self.is_terminal {
            self.overwrite(nodes);
        } else {
            self.append(nodes);
        }
    }

    fn overwrite(&mut self, nodes: &[Supervised]) {
        // Lines end at the edge: one that went on below could not be overwritten. `synod status` has
        // room for what is cut.
        let mut text = String::from("\x1b[?7l");
        if self.lines_shown > 0 {
            text.push_str(&format!("\x1b[{}A", self.lines_shown));
        }
        self.lines_shown = 0;
        for node in nodes {
            for line in line(node, Detail::Figures).lines() {
                // Clears what a longer line left behind.
                text.push_str(&format!("{line}\x1b[K\n"));
                self.lines_shown += 1;
            }
        }
        text.push_str("\x1b[J\x1b[?7h");
        print(&text);
    }

    fn append(&mut self, nodes: &[Supervised]) {
        for (node, last) in nodes.iter().zip(&mut self.last) {
            let now = line(node, Detail::Essentials);
            if *last != now {
                print(&format!("{now}\n"));
                *last = now;
            }
        }
    }
}

/// How much of a node's state is shown.
#[derive(Clone, Copy)]
enum Detail {
    /// Only what matters when it changes.
    Essentials,
    /// The figures that change all the time, too.
    Figures,
}

fn line(node: &Supervised, detail: Detail) -> String {
    let pid = node
        .child
        .as_ref()
        .map_or_else(|| "-".to_owned(), |child| child.pid.to_string());
    let state = match (&node.state, detail) {
        (State::Starting, _) => "starting".to_owned(),
        (State::Waiting(why), _) => format!("not serving: {why}"),
        (State::Stopped, _) => "stopped".to_owned(),
        (State::Died(how), _) => format!("DIED: {how}"),
        (State::Serving(summary), detail) => serving(summary, detail),
    };
    let number = node.layout.number;
    format!(
        "node {number:<2} {:<21} pid {pid:<7} {state}",
        node.layout.client.to_string()
    )
}

fn serving(summary: &Summary, detail: Detail) -> String {
    let Summary {
        members,
        view_seq,
        leads,
        shards,
        clients,
        commands_per_s,
        problem,
    } = summary;
    let mut text =
        format!("serving  view {view_seq} of {members}  leads {leads} of {shards} shards");
    if let Detail::Figures = detail {
        text.push_str(&format!(
            "  {clients} clients  {commands_per_s:.0} commands/s"
        ));
    }
    match problem {
        None => {}
        Some((first, 1)) => text.push_str(&format!("  ! {first}")),
        Some((first, count)) => text.push_str(&format!("  ! {first} (and {} more)", count - 1)),
    }
    text
}

fn print(text: &str) {
    let mut out = io::stdout().lock();
    // A closed pipe does not stop the cluster.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{super::Local, *};

    fn node(state: State) -> Supervised {
        let options = Local {
            nodes: 1,
            dir: PathBuf::from("/nonexistent"),
            client_port: 7601,
            peer_port: 7701,
            start_flags: Vec::new(),
        };
        let layout = Layout::plan(&options).expect("valid").nodes.remove(0);
        Supervised {
            layout,
            child: None,
            state,
            answered: tokio::time::Instant::now(),
        }
    }

    #[test]
    fn a_line_for_each_state() {
        let summary = Summary {
            members: 3,
            view_seq: 4,
            leads: 2,
            shards: 8,
            clients: 5,
            commands_per_s: 1234.5,
            problem: Some(("the disk is full".into(), 2)),
        };
        let cases = [
            (State::Starting, "starting"),
            (
                State::Waiting("no word yet".into()),
                "not serving: no word yet",
            ),
            (State::Stopped, "stopped"),
            (
                State::Died("was killed (signal 9)".into()),
                "DIED: was killed (signal 9)",
            ),
            (
                State::Serving(summary),
                "serving  view 4 of 3  leads 2 of 8 shards  5 clients  1234 commands/s  \
                 ! the disk is full (and 1 more)",
            ),
        ];
        for (state, expected) in cases {
            let text = line(&node(state), Detail::Figures);
            assert_eq!(
                text,
                format!("node 1  127.0.0.1:7601        pid -       {expected}")
            );
        }
    }
}
