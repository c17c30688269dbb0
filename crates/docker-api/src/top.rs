//! The processes of a container as `ps` of the host would show them, read from /proc.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::error::ApiError;

/// What is shown of each process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Vec<Column>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Uid,
    Pid,
    Ppid,
    CpuShare,
    CpuUse,
    MemoryShare,
    VirtualSize,
    ResidentSize,
    Terminal,
    State,
    Start,
    Time,
    Command,
    Arguments,
    Nice,
    Threads,
}

use Column::{
    Arguments, Command, CpuShare, CpuUse, MemoryShare, Nice, Pid, Ppid, ResidentSize, Start, State, Terminal, Threads,
    Time, Uid, User, VirtualSize,
};

/// As `ps -o` names them, with their titles.
const NAMED: [(&[&str], Column, &str); 17] = [
    (&["user", "euser", "uname"], User, "USER"),
    (&["uid", "euid"], Uid, "UID"),
    (&["pid", "tgid"], Pid, "PID"),
    (&["ppid"], Ppid, "PPID"),
    (&["%cpu", "pcpu"], CpuShare, "%CPU"),
    (&["c"], CpuUse, "C"),
    (&["%mem", "pmem"], MemoryShare, "%MEM"),
    (&["vsz", "vsize"], VirtualSize, "VSZ"),
    (&["rss", "rssize"], ResidentSize, "RSS"),
    (&["tty", "tt", "tname"], Terminal, "TTY"),
    (&["stat", "state", "s"], State, "STAT"),
    (&["stime", "start", "start_time", "bsdstart"], Start, "STIME"),
    (&["time", "cputime"], Time, "TIME"),
    (&["comm", "ucmd"], Command, "COMMAND"),
    (&["args", "cmd", "command"], Arguments, "CMD"),
    (&["ni", "nice"], Nice, "NI"),
    (&["nlwp", "thcount"], Threads, "NLWP"),
];

impl Columns {
    /// Reads the arguments of `ps`: none, `-ef`, `aux`, or `-o` with a list of names.
    pub fn parse(arguments: &str) -> Result<Self, ApiError> {
        let refuse = || ApiError::NotSupported {
            what: format!(
                "`ps {}` (expected -ef, aux, or -o with names such as pid,user,args)",
                arguments.chars().take(80).collect::<String>()
            ),
        };
        let words: Vec<&str> = arguments.split_whitespace().collect();
        match words.as_slice() {
            [] | ["-ef" | "-fe" | "-f" | "-eF" | "ef" | "-e" | "-A"] => {
                Ok(Self(vec![User, Pid, Ppid, CpuUse, Start, Terminal, Time, Arguments]))
            }
            ["aux" | "-aux" | "au" | "ux" | "u"] => Ok(Self(vec![
                User,
                Pid,
                CpuShare,
                MemoryShare,
                VirtualSize,
                ResidentSize,
                Terminal,
                State,
                Start,
                Time,
                Arguments,
            ])),
            words => {
                let mut columns = Vec::new();
                let mut words = words.iter();
                while let Some(word) = words.next() {
                    let list = match (*word, word.strip_prefix("-o").or_else(|| word.strip_prefix("-eo"))) {
                        ("-e" | "-A" | "-a" | "-x" | "ax" | "-ax", _) => continue,
                        (_, Some("")) | ("o" | "-axo" | "axo", _) => words.next().copied().ok_or_else(refuse)?,
                        (_, Some(list)) => list,
                        (_, None) => return Err(refuse()),
                    };
                    for name in list.split(',').filter(|name| !name.is_empty()) {
                        let name = name.trim_end_matches('=').to_ascii_lowercase();
                        let found = NAMED.iter().find(|(names, ..)| names.contains(&name.as_str()));
                        columns.push(found.ok_or_else(refuse)?.1);
                    }
                }
                if columns.is_empty() {
                    return Err(refuse());
                }
                Ok(Self(columns))
            }
        }
    }

    /// Their titles.
    pub fn titles(&self) -> Vec<&'static str> {
        let title =
            |column: &Column| NAMED.iter().find(|(_, other, _)| other == column).map_or("", |(.., title)| title);
        let with_user_as_uid = self.0.first() == Some(&User) && self.0.get(2) == Some(&Ppid);
        let mut titles: Vec<_> = self.0.iter().map(title).collect();
        if with_user_as_uid {
            // As `ps -ef` has it.
            titles[0] = "UID";
        }
        titles
    }
}

/// A process; `None` when it is gone.
pub fn row(pid: i32, columns: &Columns) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name may have blanks and brackets of its own.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
    // From field 3 on (proc(5)).
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let uid = fs::metadata(format!("/proc/{pid}")).map_or(0, |found| found.uid());
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|hertz| u64::try_from(hertz).ok());
    let hertz = hertz.unwrap_or(100).max(1);
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let ticks = number(14).saturating_add(number(15));
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let share = {
        let lived = (uptime - number(22) as f64 / hertz as f64).max(0.01);
        ticks as f64 / hertz as f64 / lived * 100.0
    };
    let show = |column: &Column| match column {
        User => user(uid),
        Uid => uid.to_string(),
        Pid => pid.to_string(),
        Ppid => number(4).to_string(),
        CpuShare => format!("{share:.1}"),
        CpuUse => format!("{:.0}", share.min(99.0)),
        MemoryShare => memory_share(number(24)),
        VirtualSize => (number(23) / 1024).to_string(),
        ResidentSize => (number(24).saturating_mul(4096) / 1024).to_string(),
        Terminal => terminal(number(7)),
        State => fields.first().map_or_else(String::new, |state| (*state).to_owned()),
        Start => started(uptime, number(22), hertz),
        Time => {
            let seconds = ticks / hertz;
            format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
        Command => name.clone(),
        Arguments => {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let text = words.join(" ").trim_end().to_owned();
            if text.is_empty() { format!("[{name}]") } else { text }
        }
        Nice => fields.get(19 - 3).map_or_else(String::new, |nice| (*nice).to_owned()),
        Threads => number(20).to_string(),
    };
    Some(columns.0.iter().map(show).collect())
}

fn user(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}

fn memory_share(pages: u64) -> String {
    let total = crate::host::Host::read().memory_bytes.max(1);
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let share = pages.saturating_mul(4096) as f64 / total as f64 * 100.0;
    format!("{share:.1}")
}

/// By the device's number: major in bits 8 to 15, minor in the rest (proc(5), field 7).
fn terminal(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

fn started(uptime: f64, ticks: u64, hertz: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown in minutes")]
    let ago = (uptime - ticks as f64 / hertz as f64).max(0.0);
    let span = jiff::SignedDuration::try_from_secs_f64(ago).unwrap_or_default();
    let time = jiff::Timestamp::now().checked_sub(span).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let today = jiff::Zoned::now().date() == zoned.date();
    zoned.strftime(if today { "%H:%M" } else { "%b%d" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_ps() {
        assert_eq!(Columns::parse("-ef").unwrap().titles(), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(Columns::parse("-o pid,user,args").unwrap().titles(), ["PID", "USER", "CMD"]);
        assert_eq!(Columns::parse("-eo pid -o comm").unwrap().titles(), ["PID", "COMMAND"]);
        assert!(Columns::parse("aux").unwrap().titles().contains(&"%MEM"));
        for wrong in ["-o", "-o nothing", "--forest", "-ef; rm -rf /"] {
            assert!(Columns::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_process_of_this_host() {
        let columns = Columns::parse("-o pid,ppid,user,args,time,stat").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let row = row(own, &columns).unwrap();
        assert_eq!(row[0], own.to_string());
        assert!(!row[3].is_empty() && row[4].len() == 8);
        assert!(super::row(i32::MAX, &columns).is_none());
        assert_eq!((terminal(0x8803).as_str(), terminal(0).as_str()), ("pts/3", "?"));
    }
}
