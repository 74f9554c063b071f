//! The binary as a child process: watched, signalled, and waited for with a deadline.

use super::{PATIENCE, wait_until};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running child. Its output goes to files, so that it never waits for a reader.
pub struct Child {
    process: process::Child,
    output: tempfile::TempDir,
    peak_rss_kib: u64,
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// Greatest resident set seen, KiB.
    pub peak_rss_kib: u64,
}

impl Child {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        let output = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(output.path().join(name)).unwrap();
        let process = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { process, output, peak_rss_kib: 0 }
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Sends a signal by its name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.process.id().to_string()]).status().unwrap();
        assert!(sent.success(), "the child is gone: {}", self.stderr());
    }

    /// Waits until stderr has `text`.
    pub fn wait_for(&mut self, text: &str) {
        wait_until(&format!("`{text}` on stderr"), || {
            let seen = self.stderr();
            let gone = self.process.try_wait().unwrap();
            assert!(gone.is_none() || seen.contains(text), "the child ended ({gone:?}) before `{text}`: {seen}");
            seen.contains(text)
        });
    }

    /// A figure of `/metrics`, summed over its labels; `None` while it is not there. The child has to be
    /// started with `--listen 127.0.0.1:0`, and says on stderr what port it got.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let said = self.stderr();
        let port = said.split("address=127.0.0.1:").nth(1)?;
        let port: u16 = port.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let values = text.lines().filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        values
            .map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
            .try_fold(None, |sum: Option<u64>, value| Some(Some(sum.unwrap_or(0) + value?)))?
    }

    /// Waits for the end.
    pub fn wait(self) -> Ended {
        self.wait_within(PATIENCE)
    }

    /// Waits for the end; takes the child down and fails if that takes longer than `limit`.
    pub fn wait_within(mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            self.peak_rss_kib = self.peak_rss_kib.max(peak_rss_kib(self.process.id()));
            assert!(begun.elapsed() < limit, "the child did not end within {limit:?}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        };
        Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: self.read("stdout"),
            stderr: self.stderr(),
            peak_rss_kib: self.peak_rss_kib,
        }
    }

    fn read(&self, name: &str) -> String {
        let path: PathBuf = self.output.path().join(name);
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }
}

/// A test that fails leaves no process behind.
impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ended {
    /// The last line of stdout, which is JSON.
    pub fn result(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("the last line is no JSON ({e}): {self:?}"))
    }

    /// What the run did to pipeline `events`.
    pub fn pipeline(&self) -> Value {
        self.result()["pipelines"]["events"].clone()
    }

    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Fails unless the fault of this name ended the process by SIGKILL.
    #[track_caller]
    pub fn expect_fault(self, name: &str) -> Self {
        assert!(self.stderr.contains(&format!("fault fired: {name}")), "the fault did not fire: {self:?}");
        assert_eq!(self.signal, Some(9), "{self:?}");
        self
    }

    /// Fails unless the run ended well and had something to do.
    #[track_caller]
    pub fn expect_worked(self) -> Self {
        let ended = self.expect(0);
        assert!(ended.messages() > 0, "the run had nothing left to do: {ended:?}");
        ended
    }

    /// Fails unless the run ended well and had nothing to do.
    #[track_caller]
    pub fn expect_idle(self) -> Self {
        let ended = self.expect(0);
        assert_eq!(ended.messages(), 0, "{ended:?}");
        ended
    }

    /// Messages that the run landed, rejected or skipped.
    pub fn messages(&self) -> u64 {
        let pipeline = self.pipeline();
        ["landed", "rejected", "skipped"].iter().map(|key| pipeline[key].as_u64().unwrap()).sum()
    }
}

fn peak_rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
