//! `stack deploy`, `plan`, `check`, `scale` and `rm`: change what is wanted, and wait until it is so.

use std::time::{Duration, Instant};

use stack_api::bodies::{DeployRequest, LogQuery, ScaleRequest, StatusQuery};
use stack_api::views::{DeployResponse, ImageSource, PlanAction, PlanView, StackStatus, TaskView, Written};
use stack_api::{Client, routes};
use stack_model::{Milliseconds, ServiceKey};

use crate::arguments::{DeployArguments, PlanArguments};
use crate::commands::logs::read_lines;
use crate::failure::{ExitCode, Failure};
use crate::output::{self, Format};
use crate::progress::{Progress, Verdict};
use crate::request::{QUICK, SLOW, Session};
use crate::stack_files;

/// How many of a failing task's last lines are shown.
const LAST_LINES: u64 = 10;
/// The longest that one question for news stays open.
const LONGEST_QUESTION: Milliseconds = Milliseconds(2_000);

pub async fn deploy(session: &Session, arguments: DeployArguments) -> Result<ExitCode, Failure> {
    let (spec, contents) = stack_files::read(&arguments.files)?;
    let client = session.client()?;
    let name = spec.name.clone();
    let request = DeployRequest { spec, expected_revision: None, contents };
    let response: DeployResponse =
        client.call(routes::DEPLOY, &[name.as_str()], None::<&()>, Some(&request), SLOW).await?;
    for image in &response.images {
        if let ImageSource::Loaded { nodes, asked } = image.source
            && nodes < asked
        {
            output::story(&format!("image {} is loaded on {nodes} of {asked} hosts only", image.reference));
            output::hint("`stack image load` puts it on all of them");
        }
        if image.source == ImageSource::Deployed {
            output::story(&format!(
                "image {}: its registry did not answer for it, so it stays as deployed",
                image.reference
            ));
        }
    }
    if response.changed {
        output::story(&format!("stack {name} is at revision {}", response.revision));
    } else {
        output::story(&format!("stack {name} is already as the file says (revision {})", response.revision));
    }
    if !arguments.detach {
        let stable = if response.changed { arguments.stable.into() } else { Milliseconds(0) };
        wait_until_running(&client, name.as_str(), stable, arguments.timeout).await?;
    }
    if arguments.format == Format::Json {
        output::json(&response)?;
    }
    Ok(ExitCode::Done)
}

async fn status(client: &Client, stack: &str, after: u64, wait: Milliseconds) -> Result<StackStatus, Failure> {
    let query = StatusQuery { after, wait_milliseconds: wait.0 };
    let timeout = QUICK + wait.to_duration();
    Ok(client.call(routes::STACK_STATUS, &[stack], Some(&query), None::<&()>, timeout).await?)
}

/// Follows a stack through changes of leader: a question that fails is asked again until the time is over.
struct Follower<'a> {
    client: &'a Client,
    stack: &'a str,
    revision: u64,
    until: Instant,
}

impl Follower<'_> {
    async fn next(&mut self, wait: Option<Milliseconds>) -> Result<Option<StackStatus>, Failure> {
        loop {
            let left = Milliseconds::from(self.until.saturating_duration_since(Instant::now()));
            if left.0 == 0 {
                return Ok(None);
            }
            let wait = wait.unwrap_or(LONGEST_QUESTION).min(LONGEST_QUESTION).min(left).max(Milliseconds(1));
            match status(self.client, self.stack, self.revision, wait).await {
                Ok(status) => {
                    self.revision = status.revision;
                    return Ok(Some(status));
                }
                Err(failure) if failure.code == ExitCode::Unreachable => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

async fn wait_until_running(
    client: &Client,
    stack: &str,
    stable: Milliseconds,
    timeout: Duration,
) -> Result<(), Failure> {
    let mut follower = Follower { client, stack, revision: 0, until: Instant::now() + timeout };
    let mut progress = Progress::default();
    let mut wait = None;
    let mut last = None;
    while let Some(status) = follower.next(wait).await? {
        if status.stack.is_none() {
            return Err(Failure::new(ExitCode::NotConverged, format!("stack {stack} was removed meanwhile")));
        }
        for line in progress.news(&status) {
            output::story(&line);
        }
        match progress.judge(&status, stable, output::now()) {
            Verdict::Done => return Ok(()),
            Verdict::Failed { reason, task } => {
                if let Some(task) = task {
                    show_last_lines(client, &task).await;
                }
                return Err(Failure::new(ExitCode::NotConverged, reason)
                    .with_hint(format!("`stack ps {stack}` shows all tasks, `stack logs {stack}` their output")));
            }
            Verdict::Wait(at_most) => wait = at_most,
        }
        last = Some(status);
    }
    if let Some(task) = last.iter().flat_map(|status| &status.tasks).find(|task| task.current && !task.ready) {
        show_last_lines(client, task).await;
    }
    Err(Failure::new(
        ExitCode::NotConverged,
        format!("stack {stack} does not run as wanted after {}", Milliseconds::from(timeout)),
    )
    .with_hint("it goes on without this command; `--timeout` waits longer"))
}

async fn show_last_lines(client: &Client, task: &TaskView) {
    let query = LogQuery { tail: Some(LAST_LINES), ..LogQuery::default() };
    let name = crate::commands::list::task_name(task);
    match read_lines(client, task, &query).await {
        Ok(lines) if lines.is_empty() => output::story(&format!("{name} on {} wrote nothing", task.node_name)),
        Ok(lines) => {
            output::story(&format!("the last lines of {name} on {}:", task.node_name));
            for line in lines {
                output::story(&format!("  {}", line.line));
            }
        }
        Err(failure) => {
            output::story(&format!("the output of {name} on {} cannot be read: {}", task.node_name, failure.message));
        }
    }
}

pub async fn plan(session: &Session, arguments: PlanArguments) -> Result<ExitCode, Failure> {
    let (spec, contents) = stack_files::read(&arguments.files)?;
    let name = spec.name.clone();
    let request = DeployRequest { spec, expected_revision: None, contents };
    let plan: PlanView =
        session.client()?.call(routes::PLAN, &[name.as_str()], None::<&()>, Some(&request), SLOW).await?;
    if arguments.format == Format::Json {
        output::json(&plan)?;
    } else {
        for line in plan_lines(name.as_str(), &plan) {
            output::data(&line);
        }
    }
    Ok(if plan.changed && arguments.exit_code { ExitCode::WouldChange } else { ExitCode::Done })
}

/// A plan as people read it.
fn plan_lines(stack: &str, plan: &PlanView) -> Vec<String> {
    if !plan.changed {
        return vec![format!("stack {stack}: no change")];
    }
    let mut lines = vec![match plan.revision {
        0 => format!("stack {stack}: new"),
        revision => format!("stack {stack}: changes revision {revision}"),
    }];
    for service in &plan.services {
        let (sign, word) = match service.action {
            PlanAction::Create => ('+', "create"),
            PlanAction::Replace => ('~', "replace the tasks of"),
            PlanAction::Update => ('~', "update"),
            PlanAction::Remove => ('-', "remove"),
            PlanAction::Keep => (' ', "keep"),
        };
        lines.push(format!("{sign} {word} {}", service.key.service));
        for difference in &service.differences {
            let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(unset)".to_owned());
            lines.push(format!("    {}: {} -> {}", difference.path, show(&difference.old), show(&difference.new)));
        }
        for start in &service.starts {
            lines.push(format!("    start {start}"));
        }
        for stop in &service.stops {
            lines.push(format!("    stop {stop}"));
        }
        if service.replaces > 0 {
            lines.push(format!("    {} tasks would be replaced, in turn", service.replaces));
        }
        if let Some(unplaced) = &service.unplaced {
            lines.push(format!("    {} would stay pending: {}", unplaced.count, unplaced.reason));
        }
    }
    lines
}

pub async fn scale(session: &Session, wanted: &[String], detach: bool, timeout: Duration) -> Result<ExitCode, Failure> {
    let replicas = wanted
        .iter()
        .map(|text| {
            let refuse = || Failure::new(ExitCode::Usage, format!("`{text}` is not STACK/SERVICE=NUMBER"));
            let (key, number) = text.split_once('=').ok_or_else(refuse)?;
            let key: ServiceKey = key.parse().map_err(|_| refuse())?;
            Ok((key, number.parse::<u32>().map_err(|_| refuse())?))
        })
        .collect::<Result<std::collections::BTreeMap<_, _>, Failure>>()?;
    let stacks: std::collections::BTreeSet<String> = replicas.keys().map(|key| key.stack.to_string()).collect();
    let client = session.client()?;
    let written: Written =
        client.call(routes::SCALE, &[], None::<&()>, Some(&ScaleRequest { replicas }), QUICK).await?;
    if !written.changed {
        output::story("nothing to change");
    }
    if !detach {
        for stack in stacks {
            wait_until_running(&client, &stack, Milliseconds(0), timeout).await?;
        }
    }
    Ok(ExitCode::Done)
}

pub async fn remove(session: &Session, stack: &str, detach: bool, timeout: Duration) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    let _: Written = client.get(routes::REMOVE_STACK, &[stack], QUICK).await?;
    if detach {
        return Ok(ExitCode::Done);
    }
    let mut follower = Follower { client: &client, stack, revision: 0, until: Instant::now() + timeout };
    let mut progress = Progress::default();
    while let Some(status) = follower.next(None).await? {
        let Some(view) = &status.stack else {
            output::story(&format!("stack {stack} is gone"));
            return Ok(ExitCode::Done);
        };
        if !view.removing {
            return Err(Failure::new(ExitCode::NotConverged, format!("stack {stack} was deployed again meanwhile")));
        }
        for line in progress.news(&status) {
            output::story(&line);
        }
    }
    Err(Failure::new(
        ExitCode::NotConverged,
        format!("stack {stack} is not gone after {}", Milliseconds::from(timeout)),
    )
    .with_hint("it goes on without this command; `stack ps` shows what is left"))
}
