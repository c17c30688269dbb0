//! `stack`: the client of a cluster. Data goes to standard output, the story to standard error; exit codes are documented.

mod arguments;
mod commands;
mod context;
mod dev;
mod failure;
mod output;
mod progress;
mod request;
mod stack_files;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command};
use failure::{ExitCode, Failure};
use request::Session;
use stack_model::FileKind;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::failure(&Failure::new(ExitCode::Failed, format!("cannot start: {error}")));
            return std::process::ExitCode::from(ExitCode::Failed as u8);
        }
    };
    let code = match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(failure) => {
            output::failure(&failure);
            failure.code
        }
    };
    std::process::ExitCode::from(code as u8)
}

async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let session = Session::new(arguments.context, arguments.socket);
    match arguments.command {
        Command::Cluster(command) => commands::cluster::run(&session, command).await,
        Command::Node(command) => commands::node::run(&session, command).await,
        Command::Deploy(arguments) => commands::deploy::deploy(&session, arguments).await,
        Command::Plan(arguments) => commands::deploy::plan(&session, arguments).await,
        Command::Check(arguments) => commands::check::check(&arguments),
        Command::Config(arguments) => commands::config::config(&session, &arguments).await,
        Command::Explain { code } => commands::check::explain(&code),
        Command::Schema => commands::check::schema(),
        Command::Ls(arguments) => commands::list::stacks(&session, arguments.format).await,
        Command::Services(arguments) => commands::list::services(&session, arguments).await,
        Command::Ps(arguments) => commands::list::tasks(&session, arguments).await,
        Command::Inspect { name } => commands::list::inspect(&session, &name).await,
        Command::Logs(arguments) => commands::logs::run(&session, arguments).await,
        Command::Scale { replicas, detach, timeout } => {
            commands::deploy::scale(&session, &replicas, detach, timeout).await
        }
        Command::Rm { stack, detach, timeout } => commands::deploy::remove(&session, &stack, detach, timeout).await,
        Command::Image(command) => commands::image::run(&session, command).await,
        Command::Network(command) => commands::network::run(&session, command).await,
        Command::Doctor(arguments) => commands::doctor::run(&session, &arguments).await,
        Command::Secret(command) => commands::files::run(&session, FileKind::Secret, command).await,
        Command::Configs(command) => commands::files::run(&session, FileKind::Config, command).await,
        Command::Registry(command) => commands::registry::run(&session, command).await,
        Command::Context(command) => commands::context::run(&session, command).await,
        Command::Dev(command) => commands::dev::run(command).await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "stack", &mut std::io::stdout());
            Ok(ExitCode::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
