//! `stackd`: the daemon of every host. It wires engine, agent, controller and the local sockets together, and has no other
//! logic: what it may not do without is decided in the crates that it wires.

mod configuration;
mod controlling;
mod daemon;
mod description;
mod docker_cluster;
mod host_end;
mod membership;
mod metrics;
mod resolver;
mod switch;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use configuration::{Arguments, Configuration, LogFormat};

fn main() -> ExitCode {
    let configuration = match Configuration::read(Arguments::parse()) {
        Ok(configuration) => configuration,
        Err(error) => return fail(&error),
    };
    start_log(configuration.log_format);
    // Few threads: the work is waiting, and every thread costs memory on every host.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(daemon::run(configuration)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %daemon::chain(error.as_ref()), "stackd ends");
            ExitCode::FAILURE
        }
    }
}

/// `STACK_LOG` chooses what is written, as `tracing_subscriber` documents for `RUST_LOG`.
fn start_log(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env("STACK_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=warn,nlink=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
}

#[allow(clippy::print_stderr, reason = "there is no log yet")]
fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}
