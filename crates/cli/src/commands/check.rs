//! `stack check`, `explain` and `schema`: a stack file without a cluster.

use stack_stackfile::{docker_stack, parse, sarif};

use crate::arguments::{CheckArguments, CheckFormat};
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::stack_files::{Gathered, refused, tell};

pub fn check(arguments: &CheckArguments) -> Result<ExitCode, Failure> {
    let gathered = Gathered::read(&arguments.files)?;
    let mut parsed = gathered.with(&arguments.files, parse);
    if arguments.docker_stack {
        let more = gathered.with(&arguments.files, |source, _| docker_stack(source.files));
        parsed = match parsed {
            Ok(mut right) if !more.is_empty() => {
                right.warnings.extend(more);
                Err(right.warnings)
            }
            Ok(right) => Ok(right),
            Err(mut wrong) => {
                wrong.extend(more);
                Err(wrong)
            }
        };
    }
    let diagnostics = match &parsed {
        Ok(parsed) => &parsed.warnings,
        Err(diagnostics) => diagnostics,
    };
    match arguments.format {
        CheckFormat::Text => tell(diagnostics),
        CheckFormat::Json => output::json(diagnostics)?,
        CheckFormat::Sarif => output::json(&sarif(diagnostics, env!("CARGO_PKG_VERSION")))?,
    }
    match parsed {
        Ok(parsed) => {
            let count = parsed.spec.services.len();
            let noun = if count == 1 { "service" } else { "services" };
            output::story(&format!("stack {}: {count} {noun}, no error", parsed.spec.name));
            Ok(ExitCode::Done)
        }
        Err(diagnostics) => Err(refused(&diagnostics)),
    }
}

pub fn explain(code: &str) -> Result<ExitCode, Failure> {
    match stack_stackfile::explain(code) {
        Some(text) => {
            output::data(text.trim_end());
            Ok(ExitCode::Done)
        }
        None => Err(Failure::new(ExitCode::NotFound, format!("there is no diagnostic `{code}`"))
            .with_hint("codes look like E0301 and stand in every diagnostic")),
    }
}

pub fn schema() -> Result<ExitCode, Failure> {
    output::json(&stack_stackfile::json_schema())?;
    Ok(ExitCode::Done)
}
