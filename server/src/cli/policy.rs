//! `synod policy`: the policies that place replicas and leaders.
//!
//! They go to the node with the controller, whichever node is asked. 0: done, or nothing speaks against it; 3: policies
//! cannot hold, nothing was changed; 4: not decided in time, nothing was changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use synod_client::{Command, Options};
use synod_placement::{Constraint, Force};

use super::{Failure, address::Server, asked, controller, read};
use crate::controller::review::{Admission, Against, Preview};
use crate::status::{bytes, duration, short};

/// A set of policies may be thought about for a minute; another one may be before it.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);
/// Moves that a preview names one by one.
const MOVES_SHOWN_MAX: usize = 40;

/// `synod policy`.
#[derive(Debug, clap::Subcommand)]
pub enum Policy {
    /// The policies in force
    List(Plain),
    /// The statements of one policy
    Show(Named),
    /// The sets of policies before, the latest first
    History(Plain),
    /// Whether a policy could hold: now, without each node, without each zone. Nothing is changed
    Check(File),
    /// What a policy would move, how many bytes, and how long that would take. Nothing is changed
    Preview(File),
    /// Put a policy in force, in the place of the one of that name
    Apply(Apply),
    /// Take a policy out of force
    Drop(Drop),
    /// Put an earlier set in force again
    Rollback(Rollback),
}

/// Where, and how it is printed.
#[derive(Debug, clap::Args)]
pub struct Plain {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One policy by its name.
#[derive(Debug, clap::Args)]
pub struct Named {
    #[command(flatten)]
    plain: Plain,
    /// Its name
    name: String,
}

/// A file with statements.
#[derive(Debug, clap::Args)]
pub struct File {
    #[command(flatten)]
    plain: Plain,
    /// CREATE VIEW and CREATE CONSTRAINT statements
    file: PathBuf,
    /// The policy's name [default: the file's, without digits in front and the ending]
    #[arg(long)]
    name: Option<String>,
}

/// Whether to go on if it cannot hold.
#[derive(Debug, clap::Args)]
pub struct Forced {
    /// Put it in force although it cannot hold, or is not proved to
    #[arg(long)]
    force: bool,
}

/// `synod policy apply`.
#[derive(Debug, clap::Args)]
pub struct Apply {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    forced: Forced,
}

/// `synod policy drop`.
#[derive(Debug, clap::Args)]
pub struct Drop {
    #[command(flatten)]
    plain: Plain,
    /// Its name
    name: String,
    #[command(flatten)]
    forced: Forced,
}

/// `synod policy rollback`.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    #[command(flatten)]
    plain: Plain,
    /// The version to go back to
    #[arg(value_name = "VERSION")]
    to: u64,
    #[command(flatten)]
    forced: Forced,
}

/// A set, as the node tells it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Set {
    version: u64,
    change: String,
    forced: Vec<String>,
    policies: Vec<Listed>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
enum Listed {
    Whole {
        name: String,
        since: u64,
        constraints: Vec<Constraint>,
    },
    Name(String),
}

/// What became of a change.
#[derive(Debug, serde::Deserialize)]
struct Changed {
    applied: bool,
    version: u64,
    change: String,
    forced: Vec<String>,
    #[serde(flatten)]
    admission: Admission,
}

impl Policy {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Policy::List(plain) => {
                let json = plain.ask(&["LIST"])?;
                plain.print(&json, || Ok(list(&answer(&json)?)))
            }
            Policy::History(plain) => {
                let json = plain.ask(&["HISTORY"])?;
                plain.print(&json, || {
                    let sets: Vec<Set> = answer(&json)?;
                    Ok(sets.iter().map(line).collect())
                })
            }
            Policy::Show(Named { plain, name }) => {
                let sql = plain.ask(&["SHOW", &name])?;
                let sql = String::from_utf8_lossy(&sql);
                let json = serde_json::json!({ "name": name, "sql": sql });
                plain.print(json.to_string().as_bytes(), || {
                    Ok(format!("{}\n", sql.trim_end()))
                })
            }
            Policy::Check(file) => {
                let json = file.ask("CHECK", false)?;
                let admission: Admission = answer(&json)?;
                file.plain.print(&json, || Ok(judged(&admission)))?;
                Ok(code(&admission))
            }
            Policy::Preview(file) => {
                let json = file.ask("PREVIEW", false)?;
                let preview: Preview = answer(&json)?;
                file.plain.print(&json, || Ok(moves(&preview)))?;
                Ok(match preview.status.as_str() {
                    "infeasible" => ExitCode::from(3),
                    "unknown" => ExitCode::from(4),
                    _ => ExitCode::SUCCESS,
                })
            }
            Policy::Apply(Apply { file, forced }) => {
                let json = file.ask("APPLY", forced.force)?;
                changed(&file.plain, &json)
            }
            Policy::Drop(Drop {
                plain,
                name,
                forced,
            }) => {
                let json = plain.ask(&forced.words(&["DROP", &name]))?;
                changed(&plain, &json)
            }
            Policy::Rollback(Rollback { plain, to, forced }) => {
                let json = plain.ask(&forced.words(&["ROLLBACK", &to.to_string()]))?;
                changed(&plain, &json)
            }
        }
    }
}

impl Forced {
    fn words<'a>(&self, words: &[&'a str]) -> Vec<&'a str> {
        let force = self.force.then_some("FORCE");
        words.iter().copied().chain(force).collect()
    }
}

impl Plain {
    fn ask(&self, words: &[&str]) -> Result<Vec<u8>, Failure> {
        ask(&self.server, words)
    }

    /// Prints JSON as it came, or the text of it.
    fn print(
        &self,
        json: &[u8],
        text: impl FnOnce() -> Result<String, Failure>,
    ) -> Result<ExitCode, Failure> {
        match self.json {
            true => println!("{}", String::from_utf8_lossy(json)),
            false => print!("{}", text()?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl File {
    fn ask(&self, verb: &str, force: bool) -> Result<Vec<u8>, Failure> {
        let shown = self.file.display();
        let sql = std::fs::read_to_string(&self.file)
            .map_err(|error| Failure::Usage(format!("{shown}: {error}")))?;
        let name = self.name.clone().unwrap_or_else(|| name_of(&self.file));
        let words = Forced { force }.words(&[verb, &name, &sql]);
        self.plain.ask(&words)
    }
}

/// A policy's name after its file's: `20-zone-pin.sql` is `zone-pin`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let bare = stem.trim_start_matches(|c: char| c.is_ascii_digit());
    match bare.strip_prefix(['-', '_']) {
        Some(rest) if bare.len() < stem.len() => rest.to_owned(),
        Some(_) | None => stem.into_owned(),
    }
}

fn ask(server: &Server, words: &[&str]) -> Result<Vec<u8>, Failure> {
    let command = Command::new("SYNOD").arg("POLICY").args(words);
    super::runtime()?.block_on(async {
        let options = Options {
            call_timeout: PATIENCE,
            ..Options::default()
        };
        let mut client = controller(server).await?.client_with(options);
        asked(&mut client, &command).await
    })
}

fn answer<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    read(json, "the answer")
}

fn changed(plain: &Plain, json: &[u8]) -> Result<ExitCode, Failure> {
    let changed: Changed = answer(json)?;
    plain.print(json, || {
        let mut text = match changed.applied {
            true => format!(
                "version {} is in force: {}\n",
                changed.version, changed.change
            ),
            false => "nothing was changed\n".to_owned(),
        };
        text.push_str(&judged(&changed.admission));
        match (changed.applied, changed.forced.is_empty()) {
            (true, false) => {
                text.push_str("it was forced: `synod status` says so until it is mended\n")
            }
            (false, _) => text.push_str("--force puts it in force nevertheless\n"),
            (true, true) => {}
        }
        Ok(text)
    })?;
    Ok(match changed.applied {
        true => ExitCode::SUCCESS,
        false => code(&changed.admission),
    })
}

fn code(admission: &Admission) -> ExitCode {
    match admission.verdict.as_str() {
        "accepted" => ExitCode::SUCCESS,
        "refused" => ExitCode::from(3),
        _ => ExitCode::from(4),
    }
}

fn judged(admission: &Admission) -> String {
    let mut text = format!(
        "{}: {} states looked at (now, and without each node and zone)\n",
        admission.verdict, admission.scenarios
    );
    // Most often the same rows are in conflict whatever is lost.
    let mut told: Vec<(&Against, Vec<&str>)> = Vec::new();
    for against in &admission.findings {
        let same = |(it, _): &&mut (&Against, Vec<&str>)| {
            it.conflict == against.conflict && it.give_up == against.give_up
        };
        match told.iter_mut().find(same) {
            Some((_, scenarios)) => scenarios.push(&against.scenario),
            None => told.push((against, vec![&against.scenario])),
        }
    }
    for (against, scenarios) in told {
        text.push_str(&format!("  cannot hold: {}\n", scenarios.join(", ")));
        for row in &against.conflict {
            text.push_str(&format!("    in conflict: {row}\n"));
        }
        if !against.give_up.is_empty() {
            let rows = against.give_up.join(", ");
            text.push_str(&format!("    it could if these were given up: {rows}\n"));
        }
    }
    text
}

fn line(set: &Set) -> String {
    let mut text = format!("version {}: {}\n", set.version, set.change);
    let names = set.policies.iter().map(|it| match it {
        Listed::Name(name) | Listed::Whole { name, .. } => name.as_str(),
    });
    text.push_str(&format!("  {}\n", names.collect::<Vec<_>>().join(" ")));
    forced(&mut text, set);
    text
}

fn forced(text: &mut String, set: &Set) {
    for row in &set.forced {
        text.push_str(&format!("  forced over {row}\n"));
    }
}

fn list(set: &Set) -> String {
    let mut text = format!("version {}: {}\n", set.version, set.change);
    forced(&mut text, set);
    for listed in &set.policies {
        let Listed::Whole {
            name,
            since,
            constraints,
        } = listed
        else {
            continue;
        };
        let shown: Vec<String> = constraints.iter().map(constraint).collect();
        text.push_str(&format!(
            "  {name:<20} since {since:<4} {}\n",
            shown.join(", ")
        ));
    }
    text
}

fn constraint(constraint: &Constraint) -> String {
    match constraint.force {
        Force::Hard => format!("{} (hard)", constraint.name),
        Force::Soft { tier, weight: 1 } => format!("{} (tier {tier})", constraint.name),
        Force::Soft { tier, weight } => {
            format!("{} (tier {tier}, weight {weight})", constraint.name)
        }
    }
}

fn moves(preview: &Preview) -> String {
    let mut text = String::new();
    let replicas = preview.moves.iter().filter(|it| it.slot.is_some()).count();
    let leaders = preview.moves.len() - replicas;
    text.push_str(&format!(
        "{}: {replicas} replicas and {leaders} leaders would move in {} rounds, {} copied, about {}\n",
        preview.status,
        preview.rounds,
        bytes(preview.bytes),
        duration(preview.seconds)
    ));
    for moved in preview.moves.iter().take(MOVES_SHOWN_MAX) {
        let what = match moved.slot {
            Some(slot) => format!("replica {slot}"),
            None => "the leader".to_owned(),
        };
        let from = moved.from.as_deref().map_or("nowhere", short);
        text.push_str(&format!(
            "  round {}: {what} of shard {}: {from} -> {}, {}\n",
            moved.round,
            moved.shard,
            short(&moved.to),
            bytes(moved.bytes)
        ));
    }
    let more = preview.moves.len().saturating_sub(MOVES_SHOWN_MAX);
    if more > 0 {
        text.push_str(&format!("  … and {more} more (--json shows all)\n"));
    }
    for row in &preview.conflict {
        text.push_str(&format!("  in conflict: {row}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_named_after_its_file() {
        for (file, name) in [
            ("p/20-zone-pin.sql", "zone-pin"),
            ("zone-pin.sql", "zone-pin"),
            ("7_x.sql", "x"),
            ("7.sql", "7"),
            ("-x.sql", "-x"),
        ] {
            assert_eq!(name_of(Path::new(file)), name, "{file}");
        }
    }

    #[test]
    fn a_refusal_shows_what_cannot_hold() {
        let against = |scenario: &str| Against {
            scenario: scenario.to_owned(),
            conflict: vec!["pin[shard_id=1]".to_owned()],
            give_up: Vec::new(),
        };
        let admission = Admission {
            verdict: "refused".to_owned(),
            scenarios: 4,
            findings: vec![against("now"), against("loss of zone 'b'")],
        };
        assert_eq!(
            judged(&admission),
            "refused: 4 states looked at (now, and without each node and zone)\n  \
             cannot hold: now, loss of zone 'b'\n    in conflict: pin[shard_id=1]\n"
        );
    }
}
