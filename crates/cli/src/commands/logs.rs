//! `stack logs`: the output of tasks, merged over the hosts by time; while following, as it comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use serde::Serialize;
use stack_api::bodies::{LogQuery, TaskQuery};
use stack_api::views::{LogLine, TaskView};
use stack_api::{Client, routes};
use stack_model::TaskId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::arguments::LogsArguments;
use crate::commands::list::task_name;
use crate::commands::long_lines::LongLines;
use crate::failure::{ExitCode, Failure, chain};
use crate::output::{self, Format};
use crate::request::{QUICK, Session};

/// While following, new tasks of the service are looked for this often.
const LOOK_FOR_TASKS: Duration = Duration::from_secs(1);

/// What is asked for.
enum Selection {
    Query(TaskQuery),
    Task(String),
}

/// One line, with what it is shown with.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    node: String,
    #[serde(flatten)]
    line: LogLine,
}

pub async fn run(session: &Session, arguments: LogsArguments) -> Result<ExitCode, Failure> {
    let client = session.client()?;
    let selection = select(&client, &arguments.name).await?;
    let since = arguments.since.map(|span| {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        output::now().0.saturating_sub(span)
    });
    let query = LogQuery { follow: arguments.follow, tail: arguments.tail, since, until: None };
    if arguments.follow {
        follow(&client, &selection, &query, &arguments).await?;
        return Ok(ExitCode::Done);
    }
    let tasks = tasks_of(&client, &selection).await?;
    let mut readers = Vec::new();
    let mut receivers = Vec::new();
    for task in &tasks {
        let (sender, receiver) = mpsc::channel(IN_HAND);
        let (client, id, query) = (client.clone(), task.id, query.clone());
        readers.push(tokio::spawn(async move { send_lines(&client, id, &query, &sender).await }));
        receivers.push(receiver);
    }
    let mut printer = Printer::new(&arguments);
    merge(receivers, |of, line| {
        let Some(task) = tasks.get(of) else { return Ok(()) };
        printer.print(Line { name: task_name(task), node: task.node_name.clone(), line })
    })
    .await?;
    printer.finish()?;
    let mut missing = 0;
    for (task, reader) in tasks.iter().zip(readers) {
        let read = reader.await.map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?;
        if let Err(failure) = read {
            missing += 1;
            output::story(&format!("{} on {}: {}", task_name(task), task.node_name, failure.message));
        }
    }
    if missing > 0 && missing == tasks.len() {
        return Err(Failure::new(ExitCode::Failed, "no host could be asked"));
    }
    Ok(ExitCode::Done)
}

/// Of each task so many lines are read ahead of the others'; more stay where they are.
const IN_HAND: usize = 256;

async fn send_lines(
    client: &Client,
    task: TaskId,
    query: &LogQuery,
    lines: &mpsc::Sender<LogLine>,
) -> Result<(), Failure> {
    let mut stream = client.stream(routes::TASK_LOGS, &[&task.to_string()], Some(query)).await?;
    let mut buffer = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        buffer.extend_from_slice(&chunk?);
        while let Some(line) = take_line(&mut buffer)? {
            if lines.send(line).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Hands over the lines of all sources, each of which is in order, in the order of their times. Of each source only the
/// next line is held.
async fn merge<F>(mut sources: Vec<mpsc::Receiver<LogLine>>, mut each: F) -> Result<(), Failure>
where
    F: FnMut(usize, LogLine) -> Result<(), Failure>,
{
    let mut heads: Vec<Option<LogLine>> = Vec::new();
    let mut order = BinaryHeap::new();
    for (of, source) in sources.iter_mut().enumerate() {
        let head = source.recv().await;
        order.extend(head.as_ref().map(|line| Reverse((line.time_nanoseconds, of))));
        heads.push(head);
    }
    while let Some(Reverse((_, of))) = order.pop() {
        let (Some(head), Some(source)) = (heads.get_mut(of), sources.get_mut(of)) else { continue };
        let next = source.recv().await;
        order.extend(next.as_ref().map(|line| Reverse((line.time_nanoseconds, of))));
        if let Some(line) = std::mem::replace(head, next) {
            each(of, line)?;
        }
    }
    Ok(())
}

async fn select(client: &Client, name: &str) -> Result<Selection, Failure> {
    if let Some((stack, service)) = name.split_once('/') {
        return Ok(Selection::Query(TaskQuery {
            stack: Some(stack.to_owned()),
            service: Some(service.to_owned()),
            node: None,
        }));
    }
    match client.get::<serde::de::IgnoredAny>(routes::STACK, &[name], QUICK).await {
        Ok(_) => Ok(Selection::Query(TaskQuery { stack: Some(name.to_owned()), service: None, node: None })),
        Err(error) if error.refused().is_some() => Ok(Selection::Task(name.to_owned())),
        Err(error) => Err(error.into()),
    }
}

async fn tasks_of(client: &Client, selection: &Selection) -> Result<Vec<TaskView>, Failure> {
    match selection {
        Selection::Query(query) => Ok(client.call(routes::TASKS, &[], Some(query), None::<&()>, QUICK).await?),
        Selection::Task(name) => {
            let tasks: Vec<TaskView> = client.get(routes::TASKS, &[], QUICK).await?;
            let found: Vec<TaskView> = tasks.into_iter().filter(|task| task.id.to_string().starts_with(name)).collect();
            if found.len() == 1 {
                Ok(found)
            } else {
                Err(Failure::new(ExitCode::NotFound, format!("there is no stack or task `{name}`"))
                    .with_hint("a service is named STACK/SERVICE"))
            }
        }
    }
}

/// The lines of one task, as far as there are any now.
pub async fn read_lines(client: &Client, task: &TaskView, query: &LogQuery) -> Result<Vec<LogLine>, Failure> {
    let mut stream = client.stream(routes::TASK_LOGS, &[&task.id.to_string()], Some(query)).await?;
    let mut buffer = BytesMut::new();
    let mut lines = Vec::new();
    while let Some(chunk) = stream.next().await {
        buffer.extend_from_slice(&chunk?);
        while let Some(line) = take_line(&mut buffer)? {
            lines.push(line);
        }
    }
    Ok(lines)
}

fn take_line(buffer: &mut BytesMut) -> Result<Option<LogLine>, Failure> {
    let Some(end) = buffer.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    let line = buffer.split_to(end + 1);
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| Failure::new(ExitCode::Failed, format!("a line of the log cannot be read: {error}")))
}

async fn follow(
    client: &Client,
    selection: &Selection,
    query: &LogQuery,
    arguments: &LogsArguments,
) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel::<Line>(1024);
    let mut followed: BTreeSet<TaskId> = BTreeSet::new();
    let mut followers = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_FOR_TASKS);
    let mut first = true;
    let mut printer = Printer::new(arguments);
    loop {
        tokio::select! {
            Some(line) = lines.recv() => printer.print(line)?,
            Some(_) = followers.join_next() => {}
            _ = look.tick() => {
                let tasks = match tasks_of(client, selection).await {
                    Ok(tasks) => tasks,
                    Err(failure) if first => return Err(failure),
                    Err(failure) if failure.code == ExitCode::NotFound => Vec::new(),
                    // The cluster is between leaders; what is followed goes on.
                    Err(_) => continue,
                };
                if !first && tasks.is_empty() && followers.is_empty() && is_gone(client, selection).await {
                    while let Ok(line) = lines.try_recv() {
                        printer.print(line)?;
                    }
                    return printer.finish();
                }
                for task in tasks {
                    if !followed.insert(task.id) {
                        continue;
                    }
                    let (client, sender) = (client.clone(), sender.clone());
                    // A task that appears later is shown from its first line.
                    let query = if first { query.clone() } else { LogQuery { tail: None, ..query.clone() } };
                    followers.spawn(async move { follow_task(&client, &task, query, &sender).await });
                }
                first = false;
            }
            _ = tokio::signal::ctrl_c() => return printer.finish(),
        }
    }
}

/// Whether there will be no more output: the stack is removed, or the task is no longer known.
async fn is_gone(client: &Client, selection: &Selection) -> bool {
    match selection {
        Selection::Query(TaskQuery { stack: Some(stack), .. }) => {
            let found =
                client.get::<serde::de::IgnoredAny>(routes::STACK, &[stack], QUICK).await.map_err(Failure::from);
            found.is_err_and(|failure| failure.code == ExitCode::NotFound)
        }
        Selection::Query(_) => false,
        Selection::Task(_) => {
            tasks_of(client, selection).await.is_err_and(|failure| failure.code == ExitCode::NotFound)
        }
    }
}

/// Where the output of a task was left, so that after a break of the connection no line is shown twice and none is
/// left out. Lines may have the same time: those that were read at once do.
#[derive(Debug, Default)]
struct Place {
    /// Of the last line that was shown, in nanoseconds since the Unix epoch.
    last_time: u64,
    /// How many lines of that time were shown.
    shown: usize,
    /// How many of them may come again, while lines that were shown may come again at all.
    again: Option<usize>,
}

impl Place {
    /// A new connection, which begins at the last line's millisecond.
    fn comes_again(&mut self) {
        self.again = (self.last_time > 0).then_some(self.shown);
    }

    /// Whether the line is a new one.
    fn is_new(&mut self, time: u64) -> bool {
        match self.again {
            Some(_) if time < self.last_time => return false,
            Some(left) if time == self.last_time && left > 0 => {
                self.again = Some(left - 1);
                return false;
            }
            _ => self.again = None,
        }
        self.shown = if time == self.last_time { self.shown + 1 } else { 1 };
        self.last_time = time;
        true
    }
}

/// Follows one task over breaks of the connection, without a gap and without a line twice.
async fn follow_task(client: &Client, task: &TaskView, mut query: LogQuery, sender: &mpsc::Sender<Line>) {
    let mut place = Place::default();
    loop {
        let outcome = async {
            let mut stream = client.stream(routes::TASK_LOGS, &[&task.id.to_string()], Some(&query)).await?;
            let mut buffer = BytesMut::new();
            place.comes_again();
            while let Some(chunk) = stream.next().await {
                buffer.extend_from_slice(&chunk?);
                while let Some(line) = take_line(&mut buffer)? {
                    if !place.is_new(line.time_nanoseconds) {
                        continue;
                    }
                    let line = Line { name: task_name(task), node: task.node_name.clone(), line };
                    if sender.send(line).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Ok::<(), Failure>(())
        }
        .await;
        match outcome {
            Ok(()) => return,
            Err(failure) if failure.code == ExitCode::NotFound => return,
            Err(failure) => tracing::debug!("{}", chain(&failure)),
        }
        tokio::time::sleep(LOOK_FOR_TASKS).await;
        if place.last_time > 0 {
            query.since = Some(place.last_time / 1_000_000);
            query.tail = None;
        }
    }
}

/// Prints lines: for people whole ones, for programs the records that they are kept in.
struct Printer<'a> {
    arguments: &'a LogsArguments,
    long: LongLines,
    /// The name and node of tasks that have a line under way.
    names: BTreeMap<TaskId, (String, String)>,
}

impl<'a> Printer<'a> {
    fn new(arguments: &'a LogsArguments) -> Self {
        Self { arguments, long: LongLines::default(), names: BTreeMap::new() }
    }

    fn print(&mut self, line: Line) -> Result<(), Failure> {
        if self.arguments.format == Format::Json {
            return print(&line, self.arguments);
        }
        let Line { name, node, line } = line;
        let task = line.task;
        match self.long.take(line) {
            Some(line) => print(&Line { name, node, line }, self.arguments),
            None => {
                self.names.insert(task, (name, node));
                Ok(())
            }
        }
    }

    /// What was under way when nothing more came.
    fn finish(mut self) -> Result<(), Failure> {
        for line in self.long.rest() {
            let (name, node) = self.names.remove(&line.task).unwrap_or_default();
            print(&Line { name, node, line }, self.arguments)?;
        }
        Ok(())
    }
}

fn print(line: &Line, arguments: &LogsArguments) -> Result<(), Failure> {
    if arguments.format == Format::Json {
        let text = serde_json::to_string(line)
            .map_err(|error| Failure::new(ExitCode::Failed, format!("a line cannot be printed: {error}")))?;
        output::data(&text);
        return Ok(());
    }
    let mut text = String::new();
    if !arguments.no_prefix {
        text.push_str(&format!("{}@{} | ", line.name, line.node));
    }
    if arguments.timestamps {
        let nanoseconds = i128::from(line.line.time_nanoseconds);
        let time = jiff::Timestamp::from_nanosecond(nanoseconds).unwrap_or_default();
        text.push_str(&format!("{time:.9} "));
    }
    text.push_str(&line.line.line);
    output::data(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use stack_api::views::LogLine;
    use stack_model::TaskId;
    use tokio::sync::mpsc;

    use super::{Place, merge};

    fn line(time_nanoseconds: u64, line: &str) -> LogLine {
        LogLine {
            task: TaskId::from_bits(1),
            time_nanoseconds,
            stream: "stdout".to_owned(),
            line: line.to_owned(),
            partial: false,
        }
    }

    #[tokio::test]
    async fn lines_are_merged_by_time_while_of_each_task_few_are_held() {
        // Channels of one: whoever wanted all lines of one task first would wait for ever.
        let of = |times: Vec<u64>, name: &'static str| {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                for time in times {
                    sender.send(line(time, name)).await.expect("somebody reads");
                }
            });
            receiver
        };
        let sources = vec![of((0..1000).map(|n| n * 2).collect(), "a"), of(vec![], "b"), of(vec![1, 2, 3, 5000], "c")];
        let mut seen = Vec::new();
        let merged = merge(sources, |of, line| {
            seen.push((line.time_nanoseconds, of, line.line));
            Ok(())
        });
        assert!(merged.await.is_ok());
        assert_eq!(seen.len(), 1004);
        assert!(seen.is_sorted_by_key(|(time, of, _)| (*time, *of)));
        assert_eq!(seen[..3], [(0, 0, "a".to_owned()), (1, 2, "c".to_owned()), (2, 0, "a".to_owned())]);
        assert_eq!(seen.last(), Some(&(5000, 2, "c".to_owned())));
    }

    fn shown(place: &mut Place, times: &[u64]) -> Vec<u64> {
        times.iter().copied().filter(|&time| place.is_new(time)).collect()
    }

    #[test]
    fn lines_of_one_time_are_all_shown() {
        let mut place = Place::default();
        place.comes_again();
        assert_eq!(shown(&mut place, &[5, 5, 5, 6]), [5, 5, 5, 6]);
    }

    #[test]
    fn after_a_break_what_was_shown_is_left_out_and_nothing_else() {
        let mut place = Place::default();
        place.comes_again();
        assert_eq!(shown(&mut place, &[3, 5, 5]), [3, 5, 5]);
        place.comes_again();
        assert_eq!(shown(&mut place, &[3, 5, 5, 5, 7]), [5, 7]);
        place.comes_again();
        place.comes_again();
        assert_eq!(shown(&mut place, &[7, 7]), [7]);
        place.comes_again();
        assert_eq!(shown(&mut place, &[7, 7, 8]), [8]);
    }

    #[test]
    fn a_clock_that_is_set_back_hides_nothing_while_connected() {
        let mut place = Place::default();
        place.comes_again();
        assert_eq!(shown(&mut place, &[9, 4, 4, 10]), [9, 4, 4, 10]);
    }
}
