//! The Docker CLI at a terminal.

use super::served::{served, until};

#[test]
fn a_shell_at_a_terminal() {
    served("interactive-tty", async |served| {
        let mut terminal = served.terminal(&["run", "-it", "--name", "shell", "box:1"], (33, 101));
        terminal.shows("/ # ");
        terminal.asks_until("stty size\n", "33 101");
        terminal.types("tty; echo $TERM\n");
        terminal.shows("/dev/pts/0");
        terminal.shows("xterm");
        terminal.resize(20, 70);
        terminal.asks_until("stty size\n", "20 70");
        terminal.types("exit 5\n");
        assert_eq!(terminal.ends(), 5, "{}", terminal.shown);
        assert!(served.fine(&["logs", "shell"]).await.contains("stty size"));
        assert_eq!(served.fine(&["inspect", "--format", "{{.State.ExitCode}}", "shell"]).await, "5\n");
    });
}

#[test]
fn a_terminal_is_left_and_come_back_to() {
    served("interactive-detach", async |served| {
        let mut first = served.terminal(&["run", "-it", "--rm", "--name", "shell", "box:1"], (24, 80));
        first.shows("/ # ");
        first.types("NUMBER=42\n");
        first.types("echo set-$NUMBER\n");
        first.shows("set-42");
        first.types("\x10\x11");
        assert_eq!(first.ends(), 0, "{}", first.shown);
        assert_eq!(served.fine(&["ps", "--format", "{{.Names}}"]).await, "shell\n");
        let mut second = served.terminal(&["attach", "--detach-keys", "ctrl-a,x", "shell"], (24, 80));
        second.types("echo still-$NUMBER\n");
        second.shows("still-42");
        second.types("\x01x");
        // The CLI ends an attach so, also with dockerd.
        assert_eq!(second.ends(), 1, "{}", second.shown);
        assert!(second.shown.contains("read escape sequence"), "{}", second.shown);
        let mut third = served.terminal(&["attach", "shell"], (24, 80));
        third.types("exit 7\n");
        assert_eq!(third.ends(), 7, "{}", third.shown);
        // It was started with --rm by a client that has long gone.
        until("the container removes itself", async || served.engine.list().is_empty()).await;
    });
}

#[test]
fn a_command_at_a_terminal() {
    served("interactive-exec-tty", async |served| {
        served.fine(&["run", "-d", "--name", "web", "box:1", "sleep", "600"]).await;
        let mut shell = served.terminal(&["exec", "-it", "-e", "COLOUR=green", "-w", "/data", "web", "sh"], (31, 97));
        // A CLI before 23 tells the size only once the command runs.
        shell.asks_until("stty size\n", "31 97");
        shell.types("echo $COLOUR; pwd\n");
        shell.shows("green");
        shell.shows("/data");
        shell.resize(40, 60);
        shell.asks_until("stty size\n", "40 60");
        shell.types("exit 9\n");
        assert_eq!(shell.ends(), 9, "{}", shell.shown);
    });
}

#[test]
fn what_was_made_is_started_and_attached_to() {
    served("interactive-start", async |served| {
        served.fine(&["create", "-it", "--name", "shell", "box:1"]).await;
        for (round, code) in [("first", 3), ("second", 4)] {
            let mut terminal = served.terminal(&["start", "-ai", "shell"], (24, 80));
            terminal.shows("/ # ");
            terminal.types(&format!("echo {round}-$((1+1)); exit {code}\n"));
            terminal.shows(&format!("{round}-2"));
            assert_eq!(terminal.ends(), code, "{}", terminal.shown);
        }
        served.fine(&["create", "-i", "--name", "pipe", "box:1", "cat"]).await;
        let piped = served.docker_with(b"through\n", &["start", "-ai", "pipe"]).await;
        assert_eq!((piped.code, piped.output.as_str()), (0, "through\n"), "{piped:?}");
    });
}
