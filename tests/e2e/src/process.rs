//! A child process: its lines on stdout, its log, its end.
//!
//! Guarantees: it is the leader of a process group, and the group is killed when this value is
//! dropped or the test binary ends; no wait without a deadline.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::janitor::Janitor;
use crate::waiting::{until, until_true};

thread_local! {
    /// Id, name and log of the children that this thread has started and still holds. A test runs on
    /// one thread, so these are the test's own.
    static STARTED: RefCell<Vec<(u32, String, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// The ends of the logs of the children that this thread has started and still holds.
pub fn ends_of_logs() -> String {
    let end = |(_, name, log): &(u32, String, PathBuf)| format!("\n{}", end_of(name, log));
    STARTED.with_borrow(|all| all.iter().map(end).collect())
}

fn end_of(name: &str, log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("{name}, the end of its log:\n{end}")
}

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: UnboundedReceiver<String>,
    lines: Vec<String>,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command; what it writes to stderr goes to the file `log`, behind what is there.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let janitor = Janitor::get()?;
        let stderr = File::options().create(true).append(true).open(log);
        let stderr = stderr.with_context(|| format!("open {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        janitor.group(child.id());
        let (sender, stdout) = unbounded_channel();
        if let Some(pipe) = child.stdout.take() {
            std::thread::spawn(move || {
                use std::io::{BufRead, BufReader};
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let (name, log) = (name.to_owned(), log.to_owned());
        STARTED.with_borrow_mut(|all| all.push((child.id(), name.clone(), log.clone())));
        Ok(Self {
            name,
            child,
            stdout,
            lines: Vec::new(),
            log,
            status: None,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .context("ask for the end of a child")?;
            if self.status.is_some() {
                Janitor::get()?.gone(self.child.id());
            }
        }
        Ok(self.status)
    }

    /// The next line on stdout.
    ///
    /// # Errors
    /// There is none within `bound`; the log is in the error.
    pub async fn line(&mut self, bound: Duration) -> Result<String> {
        let what = format!("a line of {}", self.name);
        let line = until(&what, bound, async || match self.stdout.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                bail!("closed its stdout: {}", self.log_end())
            }
        })
        .await;
        let line = line?;
        self.lines.push(line.clone());
        Ok(line)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It has not ended within `bound`; the log is in the error.
    pub async fn exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        until(&what, bound, async || self.ended()).await
    }

    /// Waits for its end and gives the exit code and everything it printed.
    ///
    /// # Errors
    /// As [`Process::exit`]; or a signal ended it.
    pub async fn finish(&mut self, bound: Duration) -> Result<(i32, Vec<String>)> {
        let status = self.exit(bound).await?;
        until_true("the end of stdout", Duration::from_secs(10), async || {
            loop {
                match self.stdout.try_recv() {
                    Ok(line) => self.lines.push(line),
                    Err(TryRecvError::Empty) => return Ok(false),
                    Err(TryRecvError::Disconnected) => return Ok(true),
                }
            }
        })
        .await?;
        let code = status
            .code()
            .with_context(|| format!("{} ended by {status}", self.name))?;
        Ok((code, self.lines.clone()))
    }

    /// Sends SIGTERM to the process alone, as a service manager does.
    ///
    /// # Errors
    /// It has ended already.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!(
                "{} has ended before: {status}; {}",
                self.name,
                self.log_end()
            );
        }
        kill(self.pid(), signal).with_context(|| format!("send {signal}"))
    }

    /// Stops the process where it stands (SIGSTOP), as a machine that is paused does.
    ///
    /// # Errors
    /// It has ended already.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a stopped process go on.
    ///
    /// # Errors
    /// It has ended already.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// The most memory it has held so far (`VmHWM`), in bytes.
    ///
    /// # Errors
    /// It has ended already.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&status).context(status)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.context("the system does not tell of memory")?;
        Ok(kilobytes.parse::<u64>().context("read VmHWM")? << 10)
    }

    /// Sends SIGHUP to the process alone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn hang_up(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGHUP).context("send SIGHUP")
    }

    /// Sends SIGKILL to the process and its children and waits for the end; false if the process
    /// had ended by itself before.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> Result<bool> {
        if self.ended()?.is_some() {
            return Ok(false);
        }
        killpg(self.pid(), Signal::SIGKILL).context("send SIGKILL")?;
        let status = self.child.wait().context("wait for the end of a child")?;
        self.status = Some(status);
        Janitor::get()?.gone(self.child.id());
        // Between asking and the signal it may have come to its end.
        Ok(status.signal() == Some(Signal::SIGKILL as i32))
    }

    /// Everything it has written to stderr.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn log_end(&self) -> String {
        end_of(&self.name, &self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told; the janitor tries again.
        let _ = self.kill();
        STARTED.with_borrow_mut(|all| all.retain(|(id, ..)| *id != self.child.id()));
    }
}
