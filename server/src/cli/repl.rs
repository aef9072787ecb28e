//! `synod cli`: commands to a node, in one of three ways.
//!
//! With words after it, they are one command. With something else than a terminal as stdin, each line
//! of it is a command. Else it is a prompt, with history and completion.

use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use bytes::Bytes;
use rustyline::{
    Context, Editor, Helper,
    completion::{Completer, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::DefaultHistory,
    validate::Validator,
};
use synod_client::{Client, Command, Error, Value};
use synod_txn::table;
use tokio::runtime::Runtime;

use super::{
    Failure,
    address::Server,
    answer::{Form, text},
};
use crate::resp::inline;

/// `synod cli`.
#[derive(Debug, clap::Args)]
pub struct Repl {
    #[command(flatten)]
    server: Server,
    /// Print each answer as one JSON document
    #[arg(long)]
    json: bool,
    /// A command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "WORD"
    )]
    words: Vec<String>,
}

impl Repl {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let form = match (self.json, io::stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::People,
            (false, false) => Form::Plain,
        };
        let mut prompt = Prompt {
            runtime: super::runtime()?,
            client: self.server.client(),
            form,
        };
        if !self.words.is_empty() {
            let words: Vec<Bytes> = self.words.into_iter().map(Bytes::from).collect();
            return match prompt.execute(&words)? {
                Answered::Value => Ok(ExitCode::SUCCESS),
                Answered::Error => Ok(ExitCode::FAILURE),
            };
        }
        if io::stdin().is_terminal() {
            prompt.interact()
        } else {
            prompt.read_lines(io::stdin().lock())
        }
    }
}

struct Prompt {
    runtime: Runtime,
    client: Client,
    form: Form,
}

enum Answered {
    Value,
    Error,
}

impl Prompt {
    /// Sends one command and prints its answer. Only a failure to talk at all is an `Err`.
    fn execute(&mut self, words: &[Bytes]) -> Result<Answered, Failure> {
        let Some(command) = Command::of_words(words) else {
            return Ok(Answered::Value);
        };
        let answer = match self.runtime.block_on(self.client.call_once(&command)) {
            Ok(value) => value,
            Err(Error::Server(error)) => Value::Error(error),
            Err(error) => {
                return Err(Failure::client(&self.client, error));
            }
        };
        println!("{}", text(&answer, self.form));
        Ok(if matches!(answer, Value::Error(_)) {
            Answered::Error
        } else {
            Answered::Value
        })
    }

    fn read_lines(&mut self, input: impl BufRead) -> Result<ExitCode, Failure> {
        let mut code = ExitCode::SUCCESS;
        for line in input.split(b'\n') {
            let line =
                line.map_err(|error| Failure::Failed(format!("cannot read stdin: {error}")))?;
            match inline::split(&Bytes::from(line)) {
                None => {
                    eprintln!("synod: unbalanced quotes");
                    code = ExitCode::FAILURE;
                }
                Some(words) => match self.execute(&words)? {
                    Answered::Value => {}
                    Answered::Error => code = ExitCode::FAILURE,
                },
            }
        }
        Ok(code)
    }

    fn interact(&mut self) -> Result<ExitCode, Failure> {
        let failed = |error: ReadlineError| Failure::Failed(format!("cannot read: {error}"));
        let mut editor: Editor<Assistant, DefaultHistory> = Editor::new().map_err(failed)?;
        editor.set_helper(Some(Assistant));
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        loop {
            match editor.readline(&format!("{}> ", self.client.address())) {
                Ok(line) => {
                    let _ = editor.add_history_entry(&line);
                    if matches!(line.trim(), "exit" | "quit") {
                        break;
                    }
                    self.line(line);
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if let Some(path) = &history
            && let Err(error) = editor.save_history(path)
        {
            eprintln!(
                "synod: cannot keep the history in {}: {error}",
                path.display()
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    fn line(&mut self, line: String) {
        let line = line.trim();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("help", "") => println!("help COMMAND describes one; Tab completes; exit leaves"),
            ("help", name) => match table::lookup(name.trim().as_bytes()) {
                Some(spec) => println!("{}: {} ({})", spec.name, spec.summary, spec.complexity),
                None => println!("no such command: {name}"),
            },
            _ => match inline::split(&Bytes::copy_from_slice(line.as_bytes())) {
                None => println!("unbalanced quotes"),
                Some(words) => {
                    // The next line connects again.
                    if let Err(failure) = self.execute(&words) {
                        println!("{failure}");
                    }
                }
            },
        }
    }
}

/// In the home directory; nowhere when there is none.
fn history_file() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".synod_history"))
}

/// Completes the names of commands.
struct Assistant;

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..cursor];
        if typed.contains(' ') {
            return Ok((cursor, Vec::new()));
        }
        let wanted = typed.to_ascii_lowercase();
        let candidate = |spec: &table::CommandSpec| {
            let replacement = match typed.starts_with(|first: char| first.is_ascii_uppercase()) {
                true => spec.name.to_ascii_uppercase(),
                false => spec.name.to_owned(),
            };
            Pair {
                display: spec.name.to_owned(),
                replacement,
            }
        };
        let matching = table::all()
            .iter()
            .filter(|spec| spec.name.starts_with(&wanted));
        Ok((0, matching.map(candidate).collect()))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}
impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Helper for Assistant {}
