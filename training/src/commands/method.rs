//! A command for each method of the two registries, by its key: `pinhole-train coop`, `pinhole-train linear` and so on.

use anyhow::Result;
use clap::{ArgMatches, Command, FromArgMatches, Subcommand, error::ErrorKind};
use pinhole_training::{adaptation::Adapter, prompt_learning::Method};

use super::{
    adapt::{self, AdaptArgs},
    learn::{self, LearnArgs},
};

/// The command of a method.
pub(crate) enum MethodCommand {
    Learn(Method, LearnArgs),
    Adapt(&'static Adapter, AdaptArgs),
}

impl Subcommand for MethodCommand {
    fn augment_subcommands(parent: Command) -> Command {
        let learn = Method::all().iter().map(|method| learn::command(*method));
        let adapt = Adapter::all().iter().map(|adapter| adapt::command(adapter));
        parent.subcommands(learn.chain(adapt))
    }

    fn augment_subcommands_for_update(parent: Command) -> Command {
        Self::augment_subcommands(parent)
    }

    fn has_subcommand(name: &str) -> bool {
        Method::by_key(name).is_some() || Adapter::by_key(name).is_some()
    }
}

impl FromArgMatches for MethodCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (name, matches) = matches.subcommand().unwrap_or(("", matches));
        if let Some(method) = Method::by_key(name) {
            return Ok(Self::Learn(method, learn::args(method, matches)?));
        }
        if let Some(adapter) = Adapter::by_key(name) {
            return Ok(Self::Adapt(adapter, AdaptArgs::from_arg_matches(matches)?));
        }
        let problem = "expected the name of a method";
        Err(clap::Error::raw(ErrorKind::InvalidSubcommand, problem))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(crate) fn run(command: &MethodCommand) -> Result<()> {
    match command {
        MethodCommand::Learn(method, args) => learn::run(*method, args),
        MethodCommand::Adapt(adapter, args) => adapt::run(adapter, args),
    }
}
