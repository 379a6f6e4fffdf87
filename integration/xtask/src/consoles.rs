//! What the domUs say on their consoles: dom0's xenconsoled logs it, this listens to the logs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::node::ssh::Ssh;

/// Where Debian's xenconsoled puts the logs.
const LOGS: &str = "/var/log/xen/console";

/// One line of a domU.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was said, by dom0's clock, which is this machine's; to the second.
    pub at: SystemTime,
    /// The line.
    pub text: String,
}

type Heard = Arc<Mutex<BTreeMap<String, Vec<Line>>>>;

/// Listens to the domUs of one node.
pub struct Consoles {
    ssh: Ssh,
    heard: Heard,
    listeners: Vec<Child>,
}

impl Consoles {
    /// Hears nothing yet.
    pub fn new(ssh: Ssh) -> Self {
        Self {
            ssh,
            heard: Heard::default(),
            listeners: Vec::new(),
        }
    }

    /// Begins to listen to the dom0 that runs now, from the start of its logs; what was heard
    /// of an earlier boot stays.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub fn listen(&mut self) -> Result<()> {
        self.stop();
        for domain in ["web", "db"] {
            let log = format!("{LOGS}/guest-{domain}.log");
            let mut child = self
                .ssh
                .command()
                .arg(format!(
                    "mkdir -p {LOGS}; exec tail -q -n +1 -F {log} 2>/dev/null"
                ))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot start ssh")?;
            let stdout = child.stdout.take().context("no stdout")?;
            let (heard, domain) = (Arc::clone(&self.heard), domain.to_owned());
            // Ends with the connection.
            thread::spawn(move || {
                for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                    let Some(line) = parse(&String::from_utf8_lossy(&line)) else {
                        continue;
                    };
                    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.entry(domain.clone()).or_default().push(line);
                }
            });
            self.listeners.push(child);
        }
        Ok(())
    }

    /// All that a domU has said so far.
    pub fn lines(&self, domain: &str) -> Vec<Line> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(domain).cloned().unwrap_or_default()
    }

    /// Waits until a domU says a line with `text` from now on, and returns the line.
    ///
    /// # Errors
    /// When it does not within `patience`; with the last that it said.
    pub fn wait_for(&self, domain: &str, text: &str, patience: Duration) -> Result<String> {
        self.wait_for_all(domain, &[text], patience)
    }

    /// As [`Consoles::wait_for`], for a line with all of `texts` in it.
    ///
    /// # Errors
    /// As there.
    pub fn wait_for_all(&self, domain: &str, texts: &[&str], patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        // Its clock shows whole seconds.
        let from = SystemTime::now() - Duration::from_secs(1);
        loop {
            let lines = self.lines(domain);
            let fresh =
                |line: &&Line| line.at >= from && texts.iter().all(|text| line.text.contains(text));
            if let Some(line) = lines.iter().find(fresh) {
                return Ok(line.text.clone());
            }
            if Instant::now() >= deadline {
                let last = lines.last().map_or("nothing", |line| line.text.as_str());
                bail!(
                    "`{domain}` does not say `{}`; it last said `{last}`",
                    texts.join("..")
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn stop(&mut self) {
        for mut child in self.listeners.drain(..) {
            // Fails only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A line of the log: `[2026-11-23 23:24:49] text`. Others are a boot's noise.
fn parse(line: &str) -> Option<Line> {
    let (time, text) = line.trim().strip_prefix('[')?.split_once(']')?;
    let at = humantime::parse_rfc3339_weak(time).ok()?;
    Some(Line {
        at,
        text: text.trim().to_owned(),
    })
}
