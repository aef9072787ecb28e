//! A node's settings as flags, made from the catalog, and put together with the other places.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use crate::config::{
    ConfigError, Layer, Layers, Settings,
    catalog::{Arity, CATALOG},
};

/// What the command line says of a node's settings.
#[derive(Clone, Debug)]
pub struct SettingFlags {
    flags: Layer,
    config: Option<PathBuf>,
}

impl SettingFlags {
    /// All settings: flags over the environment over the file over the defaults.
    pub fn settings(self) -> Result<Settings, ConfigError> {
        let environment =
            Layer::from_environment(std::env::vars_os().filter_map(|(name, value)| {
                Some((
                    name.into_string().ok()?,
                    value.to_string_lossy().into_owned(),
                ))
            }))?;
        let file = match &self.config {
            Some(path) => Layer::from_file(path)?,
            None => Layer::default(),
        };
        Settings::from_layers(&Layers::new([self.flags, environment, file]))
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE.toml")
            .env("SYNOD_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A file with settings, under the names of the flags");
        CATALOG
            .iter()
            .fold(command.arg(config), |command, setting| {
                // The parser of the command line lives as long as the process: so may its names.
                let arg = Arg::new(setting.name)
                    .long(&*setting.flag().leak())
                    .value_name(setting.value_name)
                    .action(match setting.arity {
                        Arity::One => ArgAction::Set,
                        Arity::List | Arity::Pairs => ArgAction::Append,
                    })
                    .help(match setting.default {
                        Some(default) if !default.is_empty() => {
                            format!("{} [default: {default}]", setting.help)
                        }
                        Some(_) | None => setting.help.to_owned(),
                    });
                command.arg(arg)
            })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = CATALOG.iter().filter_map(|setting| {
            let values = matches.get_many::<String>(setting.name)?;
            Some((setting, values.cloned().collect()))
        });
        Ok(SettingFlags {
            flags: Layer::from_flags(given),
            config: matches.get_one::<PathBuf>("config").cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
