//! `stack check`, `config`, `explain` and `schema`: a stack file without a cluster.

use stack_stackfile::{CanonicalOptions, canonical, parse, sarif};

use crate::arguments::{CheckArguments, CheckFormat, ConfigArguments, ConfigFormat};
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::stack_files::{Gathered, refused, tell};

pub fn check(arguments: &CheckArguments) -> Result<ExitCode, Failure> {
    let parsed = Gathered::read(&arguments.files)?.with(&arguments.files, parse);
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
            output::story(&format!("stack {}: {} services, no error", parsed.spec.name, parsed.spec.services.len()));
            Ok(ExitCode::Done)
        }
        Err(diagnostics) => Err(refused(&diagnostics)),
    }
}

pub fn config(arguments: &ConfigArguments) -> Result<ExitCode, Failure> {
    let options = CanonicalOptions::default();
    let understood = Gathered::read(&arguments.files)?
        .with(&arguments.files, |source, environment| canonical(source, environment, &options));
    let understood = understood.map_err(|diagnostics| {
        tell(&diagnostics);
        refused(&diagnostics)
    })?;
    tell(&understood.warnings);
    if arguments.services {
        for service in understood.services() {
            output::data(service);
        }
    } else if arguments.images {
        for image in understood.images() {
            output::data(image);
        }
    } else {
        match arguments.format {
            ConfigFormat::Yaml => output::data(understood.to_yaml().trim_end()),
            ConfigFormat::Json => output::json(&understood.to_json())?,
        }
    }
    Ok(ExitCode::Done)
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
