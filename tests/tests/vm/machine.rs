//! The virtual machine: made of Debian's packages by `make-guest`, run by qemu.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use stack_testkit::namespaced::programs;
use stack_testkit::root::busybox_tar_file;

/// The guest says something at least so often, or it hangs.
const SILENCE: Duration = Duration::from_secs(180);
/// All that it does, on a machine that does other things as well.
const DEADLINE: Duration = Duration::from_secs(1000);

/// What every kernel is told.
const KERNEL_OPTIONS: &str = "console=ttyS0 panic=-1 quiet systemd.show_status=0";

/// Why there is no machine.
pub enum Making {
    /// What it is made of or with is not installed here.
    Skipped(String),
    /// It could not be made.
    Failed(String),
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What a host does, from its installation to its end.
    Host,
    /// What a kernel with SELinux keeps containers from.
    Selinux,
}

impl Purpose {
    /// The script that runs there.
    fn script(self) -> &'static str {
        match self {
            Self::Host => "guest",
            Self::Selinux => "guest-selinux",
        }
    }

    /// Further words for the kernel.
    fn kernel_options(self) -> &'static str {
        match self {
            Self::Host => "",
            // Until there is a policy, nothing can be enforced.
            Self::Selinux => " security=selinux selinux=1 enforcing=0",
        }
    }
}

/// A virtual machine that was not started yet.
pub struct Machine {
    purpose: Purpose,
    guest: PathBuf,
    directory: tempfile::TempDir,
}

/// What the guest wrote to its serial console.
pub struct Console {
    /// Line by line.
    pub lines: Vec<String>,
    /// Why no more was read, if that was not the machine's end.
    pub trouble: Option<String>,
}

/// Ends qemu when the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|directory| directory.join(program).is_file())
}

fn succeed(command: &mut Command) -> Result<String, Making> {
    let outcome = command.output();
    match outcome {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(Making::Failed(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))),
        Err(error) => Err(Making::Failed(format!("{command:?}: {error}"))),
    }
}

/// An ext4 image with what is in a directory.
fn make_disk(path: &Path, content: &Path, bytes: u64) -> Result<(), Making> {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("an empty image");
    succeed(Command::new("mke2fs").env("PATH", search_path()).args(["-q", "-t", "ext4", "-d"]).arg(content).arg(path))?;
    Ok(())
}

/// Compiles a policy of SELinux. Its categories are all alike, and are put in here.
fn compile_policy(text: &Path, directory: &Path, compiled: &Path) -> Result<(), Making> {
    let categories: String = (0..1024).map(|number| format!("category c{number};\n")).collect();
    let text = fs::read_to_string(text).expect("the text of the policy").replace("@CATEGORIES@\n", &categories);
    let whole = directory.join("policy.conf");
    fs::write(&whole, text).expect("written");
    let mut compiler = Command::new("checkpolicy");
    compiler.env("PATH", search_path()).args(["-M", "-U", "allow", "-o"]).arg(compiled).arg(&whole);
    succeed(&mut compiler)?;
    Ok(())
}

/// Where Debian has the programs of administrators as well.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

impl Machine {
    /// Makes the guest, unless it is there already, and a disk with the programs and the test.
    pub fn make(purpose: Purpose) -> Result<Self, Making> {
        let usual = ["qemu-system-x86_64", "debootstrap", "apt-get", "mke2fs", "busybox", "strip"];
        let needed = usual.into_iter().chain((purpose == Purpose::Selinux).then_some("checkpolicy"));
        let missing: Vec<&str> = needed.filter(|program| !is_installed(program)).collect();
        if !missing.is_empty() {
            return Err(Making::Skipped(format!("not installed: {} (make test-packages)", missing.join(", "))));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(Making::Skipped("it needs root, for debootstrap".to_owned()));
        }
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm");
        let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let printed = succeed(
            Command::new(here.join("make-guest")).env("PATH", search_path()).arg(temporary.with_file_name("guest")),
        )?;
        let guest = PathBuf::from(printed.trim());

        let directory = tempfile::Builder::new().prefix("vm").tempdir_in(temporary).expect("a temporary directory");
        let content = directory.path().join("content");
        fs::create_dir_all(content.join("bin")).expect("made");
        for program in ["stack", "stackd", "stack-shim", "stack-tunnel"] {
            let to = content.join("bin").join(program);
            succeed(Command::new("strip").arg("-o").arg(to).arg(programs().join(program)))?;
        }
        assert!(busybox_tar_file(&content).starts_with(&content));
        fs::copy(here.join("checks"), content.join("checks")).expect("copied");
        fs::copy(here.join(purpose.script()), content.join("guest")).expect("copied");
        if purpose == Purpose::Selinux {
            compile_policy(&here.join("policy.conf"), directory.path(), &content.join("policy"))?;
        }
        succeed(Command::new("cp").arg("-a").arg(here.join("../../../deploy")).arg(&content))?;
        make_disk(&directory.path().join("test"), &content, 256 << 20)?;
        fs::remove_dir_all(&content).expect("removed");
        // What the guest changes on its own disk is of this run alone.
        let disk = directory.path().join("disk");
        succeed(Command::new("cp").arg("--sparse=always").arg(guest.join("disk")).arg(disk))?;
        Ok(Self { purpose, guest, directory })
    }

    /// Runs the machine until it is switched off, and through every reboot before that.
    pub fn run(self) -> Console {
        let drive = |name: &str, options: &str| {
            format!("file={},format=raw,if=virtio,cache=unsafe{options}", self.directory.path().join(name).display())
        };
        let mut child = Command::new("qemu-system-x86_64")
            // In software: the same everywhere, also where the machine is a virtual one itself.
            .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-nic", "none"])
            .arg("-kernel")
            .arg(self.guest.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.guest.join("initramfs"))
            .args(["-append", &format!("{KERNEL_OPTIONS}{}", self.purpose.kernel_options())])
            .args(["-drive", &drive("disk", "")])
            .args(["-drive", &drive("test", ",readonly=on")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("qemu runs");
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        let running = Running(child);
        let (sender, lines) = channel();
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut console = Console { lines: Vec::new(), trouble: None };
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed()).min(SILENCE);
            match lines.recv_timeout(left) {
                Ok(line) => {
                    #[allow(
                        clippy::print_stdout,
                        reason = "shown of a test that failed, or while it runs if asked for"
                    )]
                    {
                        println!("{:3} {line}", began.elapsed().as_secs());
                    }
                    console.lines.push(line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let after = began.elapsed().as_secs();
                    console.trouble = Some(format!("the guest did not end, or said nothing for long, after {after} s"));
                    break;
                }
            }
        }
        drop(running);
        console
    }
}
