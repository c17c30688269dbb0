//! `stack config`: stack files as they are understood, or a part of that.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use stack_api::bodies::DeployRequest;
use stack_api::routes;
use stack_api::views::PlanView;
use stack_model::{FileContents, StackSpec};
use stack_stackfile::{Canonical, CanonicalOptions, canonical};

use crate::arguments::{ConfigArguments, ConfigFormat};
use crate::failure::{ExitCode, Failure};
use crate::output;
use crate::request::{SLOW, Session};
use crate::stack_files::{Gathered, refused, tell};

pub async fn config(session: &Session, arguments: &ConfigArguments) -> Result<ExitCode, Failure> {
    let part = &arguments.part;
    let gathered = Gathered::read(&arguments.files)?;
    if part.environment {
        let lines = gathered.environment().iter().map(|(name, value)| format!("{name}={value}"));
        return print(&lines.collect::<Vec<_>>().join("\n"), arguments);
    }
    let every_profile = ["*".to_owned()];
    let mut understood = gathered
        .with(&arguments.files, |source, environment| {
            let profiles = if part.profiles || part.variables { &every_profile } else { source.profiles };
            canonical(stack_stackfile::Source { profiles, ..source }, environment, &options(arguments))
        })
        .map_err(|diagnostics| {
            tell(&diagnostics);
            refused(&diagnostics)
        })?;
    tell(&understood.warnings);
    if arguments.resolve_image_digests {
        let digests = digests(session, &understood).await?;
        understood.pin_images(&digests);
    }
    print(&printed(&understood, arguments)?, arguments)
}

fn options(arguments: &ConfigArguments) -> CanonicalOptions {
    let interpolate = !arguments.no_interpolate && !arguments.part.variables;
    CanonicalOptions {
        interpolate,
        // What a variable hides can be neither looked up nor judged.
        normalize: !arguments.no_normalize && interpolate,
        resolve_paths: !arguments.no_path_resolution && interpolate,
        check_consistency: !arguments.no_consistency && interpolate,
        resolve_environment: !arguments.no_env_resolution && interpolate,
        services: arguments.service.clone(),
        ..CanonicalOptions::default()
    }
}

fn printed(understood: &Canonical, arguments: &ConfigArguments) -> Result<String, Failure> {
    let part = &arguments.part;
    let lines = if part.services {
        understood.services()
    } else if part.images {
        understood.images()
    } else if part.volumes {
        understood.keys("volumes")
    } else if part.networks {
        understood.keys("networks")
    } else if part.models {
        understood.keys("models")
    } else if part.profiles {
        understood.profiles()
    } else if let Some(services) = &part.hash {
        return hashes(understood, services);
    } else if part.variables {
        return variables(understood, arguments.format);
    } else {
        return match arguments.format {
            ConfigFormat::Yaml => Ok(understood.to_yaml()),
            ConfigFormat::Json => pretty(&understood.to_json()),
        };
    };
    match arguments.format {
        ConfigFormat::Yaml => Ok(lines.join("\n")),
        ConfigFormat::Json => pretty(&json!(lines)),
    }
}

fn pretty(value: &serde_json::Value) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))
}

/// `services` are divided by commas; `*` is all of them.
fn hashes(understood: &Canonical, services: &str) -> Result<String, Failure> {
    let hashes = understood.hashes();
    let wanted: Vec<&str> = services.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = wanted.iter().find(|name| **name != "*" && hashes.iter().all(|(known, _)| known != *name)) {
        return Err(Failure::new(ExitCode::NotFound, format!("there is no service `{unknown}` in the stack file"))
            .with_hint("`stack config --services` shows them; one with `profiles:` needs `--profile`"));
    }
    let chosen = hashes.iter().filter(|(name, _)| wanted.contains(name) || wanted.contains(&"*"));
    Ok(chosen.map(|(name, hash)| format!("{name} {hash}")).collect::<Vec<_>>().join("\n"))
}

fn variables(understood: &Canonical, format: ConfigFormat) -> Result<String, Failure> {
    let variables = understood.variables();
    if format == ConfigFormat::Json {
        return pretty(&json!(variables));
    }
    let header = ["NAME", "REQUIRED", "DEFAULT", "ALTERNATIVE"];
    Ok(output::table(
        &header,
        variables.iter().map(|variable| {
            let required = if variable.required { "yes" } else { "no" };
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            vec![variable.name.clone(), required.to_owned(), text(&variable.default), text(&variable.alternative)]
        }),
    ))
}

fn print(text: &str, arguments: &ConfigArguments) -> Result<ExitCode, Failure> {
    let text = text.trim_end();
    if arguments.quiet {
        return Ok(ExitCode::Done);
    }
    match &arguments.output {
        Some(path) => write(path, text)?,
        None if text.is_empty() => {}
        None => output::data(text),
    }
    Ok(ExitCode::Done)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, format!("{text}\n"))
        .map_err(|error| Failure::new(ExitCode::Failed, format!("cannot write {}: {error}", path.display())))
}

/// What the cluster pins each image to at a deploy, by the image's name: the plan of a stack with no task asks it.
async fn digests(session: &Session, understood: &Canonical) -> Result<BTreeMap<String, String>, Failure> {
    let images = understood.images();
    if images.is_empty() {
        return Ok(BTreeMap::new());
    }
    let services: serde_json::Map<String, serde_json::Value> = images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            let service =
                json!({"container": {"image": {"reference": image}}, "mode": {"replicated": {"replicas": 0}}});
            (format!("image-{number}"), service)
        })
        .collect();
    let name = "stack-config-images";
    let spec: StackSpec = serde_json::from_value(json!({"name": name, "services": services}))
        .map_err(|error| Failure::new(ExitCode::Failed, format!("cannot ask for the images: {error}")))?;
    let request = DeployRequest { spec, expected_revision: None, contents: FileContents::default() };
    let plan: PlanView = session.client()?.call(routes::PLAN, &[name], None::<&()>, Some(&request), SLOW).await?;
    Ok(plan.images.into_iter().map(|image| (image.reference, image.digest.to_string())).collect())
}
