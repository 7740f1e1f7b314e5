//! Getting back in with the PIN, and setting a new one.

use std::path::Path;

use keyfold_client::pin::Pin;
use keyfold_client::webauthn::Verification;
use serde_json::json;

use super::account::{machine_name, show_overview};
use crate::args::EnrollArguments;
use crate::config::Config;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::counted;

pub(super) async fn recover(context: &Context, arguments: &EnrollArguments) -> Result<(), Failure> {
    let config = Config::new(&context.home, &arguments.deployment)?;
    let device = context.new_device(config).await?;
    let pin = context.pin(arguments.pin_file.as_deref())?;
    let pin = Pin::existing(&pin).map_err(keyfold_client::Error::from)?;
    let name = arguments.name.clone().unwrap_or_else(machine_name);
    let text = "Trying the PIN: it is stretched here, counted in the ledger, then compared in the \
                enclave. That takes a moment ...";
    context.out.event(&json!({"event": "trying-pin"}), text);
    let overview = device.client.recover(pin, &name).await?;
    let passkeys = device.client.passkeys()?.len();
    let head = format!(
        "Recovered: this device belongs to the account now, with {}.\n\
         Do you know all of its devices? What is lost or not yours: keyfold devices revoke NAME",
        counted(passkeys, "passkey", "passkeys")
    );
    let more = json!({"passkeys": passkeys});
    show_overview(context, &device.client.keys().id(), &overview, &head, more);
    Ok(())
}

pub(super) async fn change_pin(context: &Context, pin_file: Option<&Path>) -> Result<(), Failure> {
    let device = context.device().await?;
    let pin = context.new_pin(pin_file)?;
    let pin = Pin::new(&pin).map_err(keyfold_client::Error::from)?;
    context.unlock(&device, Verification::Required)?;
    context.stretching();
    let guard = device.client.change_pin(pin).await?;
    let text = format!(
        "The new PIN holds from version {guard} of the account on; all of its tries are left."
    );
    context.out.result(json!({"guard": guard}), &text);
    Ok(())
}
