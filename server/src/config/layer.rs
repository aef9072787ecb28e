//! Layers: the places that settings come from, in order of precedence.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use toml::de::{DeTable, DeValue};

use super::{
    catalog::{self, Arity, CATALOG, COMMAND_VARIABLES, Setting},
    parse::Fault,
};

/// Where a value came from, in words that lead back to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A command-line flag.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// The catalog.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(flag) => write!(f, "flag --{flag}"),
            Source::Variable(variable) => write!(f, "environment variable {variable}"),
            Source::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Source::Default => f.write_str("the default"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting's value is wrong.
    #[error("{name}: {fault} (from {source_of})")]
    Value {
        /// The setting.
        name: &'static str,
        /// What is wrong with it.
        fault: Fault,
        /// Where the value came from.
        source_of: Source,
    },
    /// There is no such setting.
    #[error("{name}: there is no such setting (from {source_of}){}", hint(.similar))]
    Unknown {
        /// The name that was given.
        name: String,
        /// Where it was given.
        source_of: Source,
        /// What may have been meant.
        similar: Option<String>,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        reason: String,
    },
}

fn hint(similar: &Option<String>) -> String {
    similar
        .as_ref()
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// The values that one place gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    values: BTreeMap<&'static str, (String, Source)>,
}

impl Layer {
    /// What the command line says: setting, values in order.
    pub fn from_flags(flags: impl IntoIterator<Item = (&'static Setting, Vec<String>)>) -> Self {
        let entry = |(setting, values): (&'static Setting, Vec<String>)| {
            (
                setting.name,
                (values.join(","), Source::Flag(setting.flag())),
            )
        };
        Layer {
            values: flags.into_iter().map(entry).collect(),
        }
    }

    /// What the environment says.
    pub fn from_environment(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut layer = Layer::default();
        for (variable, value) in variables {
            if !variable.starts_with("SYNOD_") || COMMAND_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let source = Source::Variable(variable.clone());
            let known = CATALOG
                .iter()
                .find(|setting| setting.variable() == variable);
            let Some(setting) = known else {
                let similar = nearest(&variable, CATALOG.iter().map(Setting::variable));
                return Err(ConfigError::Unknown {
                    name: variable,
                    source_of: source,
                    similar,
                });
            };
            layer.values.insert(setting.name, (value, source));
        }
        Ok(layer)
    }

    /// What the TOML file at `path` says; `text` is its content.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let line_of = |offset: usize| {
            text.as_bytes()[..offset.min(text.len())]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count()
                + 1
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(span.start)),
            reason: error.message().to_owned(),
        })?;
        let mut layer = Layer::default();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let source_of = Source::File(path.to_owned(), line_of(key.span().start));
            let Some(setting) = catalog::find(name) else {
                let similar = nearest(name, CATALOG.iter().map(|setting| setting.name.to_owned()));
                return Err(ConfigError::Unknown {
                    name: name.to_owned(),
                    source_of,
                    similar,
                });
            };
            match text_of(setting, value.get_ref()) {
                Ok(text) => layer.values.insert(setting.name, (text, source_of)),
                Err(fault) => {
                    return Err(ConfigError::Value {
                        name: setting.name,
                        fault,
                        source_of,
                    });
                }
            };
        }
        Ok(layer)
    }

    /// The same, from the disk.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Layer::from_toml(path, &text)
    }
}

/// A file's value as the text that a flag would have.
fn text_of(setting: &Setting, value: &DeValue<'_>) -> Result<String, Fault> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err(Fault::new(format!("must be {}", setting.value_name)))
        }
    };
    match (setting.arity, value) {
        (Arity::List | Arity::Pairs, DeValue::Array(items)) => {
            let items: Result<Vec<_>, _> =
                items.iter().map(|item| scalar(item.get_ref())).collect();
            Ok(items?.join(","))
        }
        (Arity::Pairs, DeValue::Table(table)) => {
            let pair = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Ok(format!("{key}={}", scalar(value.get_ref())?))
            };
            let pairs: Result<Vec<_>, Fault> = table.iter().map(pair).collect();
            Ok(pairs?.join(","))
        }
        (Arity::One | Arity::List | Arity::Pairs, value) => scalar(value),
    }
}

/// All layers, the strongest first.
#[derive(Clone, Debug, Default)]
pub struct Layers(Vec<Layer>);

impl Layers {
    /// Layers in order of precedence.
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Layers(layers.into_iter().collect())
    }

    /// The text of a setting, and where it is from. `name` is in the catalog.
    fn text(&self, name: &str) -> (&'static Setting, Option<&str>, Source) {
        let setting = catalog::find(name).expect("only settings of the catalog are asked for");
        match self.0.iter().find_map(|layer| layer.values.get(name)) {
            Some((text, source)) => (setting, Some(text), source.clone()),
            None => (setting, setting.default, Source::Default),
        }
    }

    /// Those of `names` that somebody gave, and where.
    pub(super) fn given(
        &self,
        names: impl IntoIterator<Item = &'static str>,
    ) -> Vec<(&'static str, Source)> {
        let sourced = names.into_iter().map(|name| (name, self.text(name).2));
        sourced
            .filter(|(_, source)| *source != Source::Default)
            .collect()
    }

    /// The value of a setting that always has one.
    pub(super) fn read<T>(&self, name: &'static str) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Into<Fault>>,
    {
        self.read_optional(name)?
            .ok_or_else(|| self.refuse(name, Fault::new("must be set")))
    }

    /// The value of a setting that may have none.
    pub(super) fn read_optional<T>(&self, name: &'static str) -> Result<Option<T>, ConfigError>
    where
        T: FromStr<Err: Into<Fault>>,
    {
        let (_, text, _) = self.text(name);
        text.map(|text| {
            text.parse()
                .map_err(|error: T::Err| self.refuse(name, error.into()))
        })
        .transpose()
    }

    /// The error that says what is wrong with a setting, and where that came from.
    pub(super) fn refuse(&self, name: &'static str, fault: Fault) -> ConfigError {
        let (_, _, source_of) = self.text(name);
        ConfigError::Value {
            name,
            fault,
            source_of,
        }
    }
}

/// The candidate that `name` is probably a misspelling of.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    const EDITS_MAX: usize = 3;
    candidates
        .map(|candidate| (edit_distance(name, &candidate), candidate))
        .filter(|(edits, _)| *edits <= EDITS_MAX)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, a row at a time.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
