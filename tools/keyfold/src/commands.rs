//! One function per command.

mod account;
mod demo;
mod devices;
mod doctor;
mod history;
mod passkeys;
mod policy;
mod recovery;

use crate::args::{AccountCommand, Arguments, Command, PinCommand};
use crate::context::Context;
use crate::failure::Failure;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let json = arguments.globals.json;
    if let Command::Demo { arguments } = &arguments.command {
        return demo::run(json, arguments);
    }
    let context = Context::new(arguments.globals)?;
    match arguments.command {
        // Above: it is about no account, and needs no state.
        Command::Demo { .. } => Ok(()),
        Command::Enroll(arguments) => account::enroll(&context, &arguments).await,
        Command::Recover(arguments) => recovery::recover(&context, &arguments).await,
        Command::Pin(PinCommand::Change { pin_file }) => {
            recovery::change_pin(&context, pin_file.as_deref()).await
        }
        Command::Account(AccountCommand::Delete { yes }) => account::delete(&context, yes).await,
        Command::Login { fresh } => account::login(&context, fresh).await,
        Command::Devices(command) => devices::run(&context, command).await,
        Command::Passkeys(command) => passkeys::run(&context, command).await,
        Command::Sync => passkeys::sync(&context).await,
        Command::Status => account::status(&context).await,
        Command::Audit { verify } => history::audit(&context, verify).await,
        Command::Anchor => account::anchor(&context).await,
        Command::Doctor => doctor::run(&context).await,
        Command::Policy(command) => policy::run(&context, command),
    }
}
