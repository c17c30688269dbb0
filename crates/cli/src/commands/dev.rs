//! `stack dev`.

use crate::dev::DevCommand;
use crate::failure::{ExitCode, Failure};

pub async fn run(command: DevCommand) -> Result<ExitCode, Failure> {
    let _ = command;
    Ok(ExitCode::Done)
}
