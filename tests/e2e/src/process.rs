//! A child process: its lines on stdout, its log, its exit status.
//!
//! Guarantees: the process leads a process group, which is killed when this value is dropped or the
//! test binary ends; every wait has a deadline.

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
    /// Id, name and log of the children that this thread has started and not dropped. A test runs on
    /// one thread, so these are the children of the test.
    static STARTED: RefCell<Vec<(u32, String, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// Returns the last lines of the logs of the children that this thread has started and not dropped.
pub fn log_tails() -> String {
    let end = |(_, name, log): &(u32, String, PathBuf)| format!("\n{}", log_tail(name, log));
    STARTED.with_borrow(|all| all.iter().map(end).collect())
}

fn log_tail(name: &str, log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("last lines of the log of {name}:\n{end}")
}

/// A child process that is running or has ended.
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
    /// Starts a command; its stderr is appended to the file `log`.
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

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its exit status, if it has ended.
    ///
    /// # Errors
    /// The system returns an error.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .context("read the status of a child")?;
            if self.status.is_some() {
                Janitor::get()?.gone(self.child.id());
            }
        }
        Ok(self.status)
    }

    /// Waits for the next line on stdout.
    ///
    /// # Errors
    /// There is no line within `bound`; the error contains the end of the log.
    pub async fn line(&mut self, bound: Duration) -> Result<String> {
        let what = format!("a line on stdout of {}", self.name);
        let line = until(&what, bound, async || match self.stdout.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                bail!("closed its stdout: {}", self.tail())
            }
        })
        .await;
        let line = line?;
        self.lines.push(line.clone());
        Ok(line)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// It has not ended within `bound`; the error contains the end of the log.
    pub async fn exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        until(&what, bound, async || self.ended()).await
    }

    /// Waits until it ends and returns the exit code and its lines on stdout.
    ///
    /// # Errors
    /// See [`Process::exit`]; or a signal ended it.
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
            .with_context(|| format!("{} was ended by {status}", self.name))?;
        Ok((code, self.lines.clone()))
    }

    /// Sends SIGTERM to the process only, as a service manager does.
    ///
    /// # Errors
    /// It has already ended.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has already ended: {status}; {}", self.name, self.tail());
        }
        kill(self.pid(), signal).with_context(|| format!("send {signal}"))
    }

    /// Suspends the process (SIGSTOP).
    ///
    /// # Errors
    /// It has already ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Resumes a suspended process (SIGCONT).
    ///
    /// # Errors
    /// It has already ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Returns its peak resident memory (`VmHWM`) in bytes.
    ///
    /// # Errors
    /// It has already ended.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&status).context(status)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes = kilobytes.context("/proc does not contain VmHWM")?;
        Ok(kilobytes.parse::<u64>().context("read VmHWM")? << 10)
    }

    /// Sends SIGHUP to the process only.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn hang_up(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGHUP).context("send SIGHUP")
    }

    /// Sends SIGKILL to the process and its children and waits until it ends; returns false if the
    /// process had already ended.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn kill(&mut self) -> Result<bool> {
        if self.ended()?.is_some() {
            return Ok(false);
        }
        killpg(self.pid(), Signal::SIGKILL).context("send SIGKILL")?;
        let status = self.child.wait().context("wait for a child")?;
        self.status = Some(status);
        Janitor::get()?.gone(self.child.id());
        // It can have ended between the check and the signal.
        Ok(status.signal() == Some(Signal::SIGKILL as i32))
    }

    /// Returns everything it has written to stderr.
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

    fn tail(&self) -> String {
        log_tail(&self.name, &self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error cannot be reported here; the janitor kills the group later.
        let _ = self.kill();
        STARTED.with_borrow_mut(|all| all.retain(|(id, ..)| *id != self.child.id()));
    }
}
