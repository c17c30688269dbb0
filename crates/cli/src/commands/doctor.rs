//! `stack doctor`: what is wrong with the hosts and the ways between them, and what to do about it.

use std::time::Duration;

use stack_api::examination::{ExaminationView, Finding, Verdict};
use stack_api::routes;

use crate::arguments::ListArguments;
use crate::failure::{ExitCode, Failure};
use crate::output::{self, Format};
use crate::request::Session;

/// The hosts have about three seconds of work, and twenty to answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(session: &Session, arguments: &ListArguments) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    let view: ExaminationView =
        client.call(routes::DOCTOR, &[], None::<&()>, None::<&()>, PATIENCE).await.map_err(Failure::from)?;
    match arguments.format {
        Format::Json => output::json(&view)?,
        Format::Table => text(&view).iter().for_each(|line| output::data(line)),
    }
    Ok(if view.verdict() == Verdict::Failure { ExitCode::Failed } else { ExitCode::Done })
}

/// Every node with what is not as it should be, then every way that is not.
fn text(view: &ExaminationView) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &view.nodes {
        let bad: Vec<&Finding> = node.findings.iter().filter(|finding| finding.verdict != Verdict::Fine).collect();
        let state = if bad.is_empty() { "fine" } else { "see below" };
        lines.push(format!("{} ({}): {state}", node.name, node.address));
        for finding in bad {
            lines.extend(shown(finding, &finding.subject));
        }
    }
    let bad: Vec<_> = view.paths.iter().filter(|path| path.finding.verdict != Verdict::Fine).collect();
    let ways = view.paths.len();
    match bad.len() {
        0 => lines.push(format!("ways between hosts: all {ways} are fine")),
        count => lines.push(format!("ways between hosts: {count} of {ways} are not fine")),
    }
    for path in bad {
        lines.extend(shown(&path.finding, &format!("{} to {}", path.from, path.to)));
    }
    lines
}

fn shown(finding: &Finding, place: &str) -> Vec<String> {
    let word = match finding.verdict {
        Verdict::Fine => "fine",
        Verdict::Warning => "warning",
        Verdict::Failure => "FAILURE",
    };
    let mut lines = vec![format!("  {word}: {place}: {}", finding.text)];
    lines.extend(finding.remedy.as_ref().map(|remedy| format!("    to do: {remedy}")));
    lines
}

#[cfg(test)]
mod tests {
    use stack_api::examination::{ExaminedNode, ExaminedPath};

    use super::*;

    #[test]
    fn what_is_fine_takes_a_line_and_what_is_not_says_what_to_do() {
        let node = |name: &str, findings| ExaminedNode {
            name: name.to_owned(),
            address: "10.0.0.1:4600".parse().expect("an address"),
            findings,
        };
        let lost = Finding::of("networks", Verdict::Failure, "nothing arrives", "open UDP port 4792");
        let view = ExaminationView {
            nodes: vec![
                node("one", vec![Finding::fine("disk", "1 %")]),
                node("two", vec![Finding::of("disk", Verdict::Warning, "90 % is used", "make room")]),
            ],
            paths: vec![
                ExaminedPath { from: "one".into(), to: "two".into(), finding: Finding::fine("control", "reached") },
                ExaminedPath { from: "two".into(), to: "one".into(), finding: lost },
            ],
        };
        let wanted = [
            "one (10.0.0.1:4600): fine",
            "two (10.0.0.1:4600): see below",
            "  warning: disk: 90 % is used",
            "    to do: make room",
            "ways between hosts: 1 of 2 are not fine",
            "  FAILURE: two to one: nothing arrives",
            "    to do: open UDP port 4792",
        ];
        assert_eq!(text(&view), wanted);
    }
}
