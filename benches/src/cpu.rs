//! What processes cost: CPU time and peak memory, of this process, of local servers by pid, of
//! others by their `/metrics`.
//!
//! A local process's CPU is read from its POSIX clock (nanoseconds, all threads, dead ones
//! included); `/proc/PID/stat` counts in 10 ms, too coarse for a round of 0.2 s. Kernel threads
//! (write-back of the page cache) belong to nobody and are in no figure.

use std::{fs, io::Write, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// User and system time that a process has used since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessClock(ClockId);

impl ProcessClock {
    pub(crate) fn of_self() -> Result<Self> {
        Self::of(std::process::id())
    }

    pub(crate) fn of(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).context("read a process id")?);
        let clock = clock_getcpuclockid(pid)
            .with_context(|| format!("find the CPU clock of process {pid}: is it running?"))?;
        Ok(Self(clock))
    }

    pub(crate) fn now(&self) -> Result<Duration> {
        Ok(self
            .0
            .now()
            .context("read a process's CPU clock: has it ended?")?
            .into())
    }
}

/// How a server's cost is known.
#[derive(Debug)]
pub(crate) enum Probe {
    /// A process of this machine.
    Local {
        pid: u32,
        clock: ProcessClock,
        peak_was_reset: bool,
    },
    /// `process_cpu_seconds_total` and `process_resident_memory_bytes` of an admin address.
    Metrics { admin: String },
}

/// Bytes, and how they came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    /// False: the largest of the samples between rounds, so a lower bound.
    pub(crate) is_peak: bool,
}

impl Probe {
    /// Of a local process.
    pub(crate) fn local(pid: u32) -> Result<Self> {
        let clock = ProcessClock::of(pid)?;
        clock.now()?;
        let mut probe = Self::Local {
            pid,
            clock,
            peak_was_reset: false,
        };
        probe.start_peak();
        Ok(probe)
    }

    /// Lets the peak of memory start anew, if that is allowed.
    pub(crate) fn start_peak(&mut self) {
        if let Self::Local {
            pid,
            peak_was_reset,
            ..
        } = self
        {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(format!("/proc/{pid}/clear_refs"));
            *peak_was_reset = file.and_then(|mut file| file.write_all(b"5")).is_ok();
        }
    }

    /// Of an admin address that answers now.
    pub(crate) async fn metrics(admin: &str) -> Result<Self> {
        let probe = Self::Metrics {
            admin: admin.to_owned(),
        };
        probe.cpu().await?;
        Ok(probe)
    }

    /// For the report.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Local {
                pid,
                peak_was_reset,
                ..
            } => {
                let since = if *peak_was_reset {
                    "of this run"
                } else {
                    "since it started"
                };
                format!("process {pid}: CPU clock, peak memory {since} (VmHWM)")
            }
            Self::Metrics { admin } => {
                format!("http://{admin}/metrics: CPU, resident memory sampled between rounds")
            }
        }
    }

    /// CPU used since the process started.
    pub(crate) async fn cpu(&self) -> Result<Duration> {
        match self {
            Self::Local { clock, .. } => clock.now(),
            Self::Metrics { admin } => {
                let seconds = metric(&get_metrics(admin).await?, "process_cpu_seconds_total")
                    .with_context(|| format!("http://{admin}/metrics has no process_cpu_seconds_total: give --server-pid instead"))?;
                Ok(Duration::from_secs_f64(seconds.max(0.0)))
            }
        }
    }

    pub(crate) async fn memory(&self) -> Result<Memory> {
        match self {
            Self::Local { pid, .. } => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"))
                    .context("read the server's memory: has it ended?")?;
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmHWM:"))
                    .context("find VmHWM of the server")?;
                let kib: u64 = line
                    .trim()
                    .trim_end_matches(" kB")
                    .trim()
                    .parse()
                    .context("read VmHWM of the server")?;
                Ok(Memory {
                    bytes: kib << 10,
                    is_peak: true,
                })
            }
            Self::Metrics { admin } => {
                let bytes = metric(&get_metrics(admin).await?, "process_resident_memory_bytes")
                    .with_context(|| {
                        format!("http://{admin}/metrics has no process_resident_memory_bytes")
                    })?;
                Ok(Memory {
                    bytes: bytes as u64,
                    is_peak: false,
                })
            }
        }
    }
}

/// The value of a metric without labels, or with any: the first line that has this name.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse().ok()
    })
}

/// One plain HTTP/1.0 exchange: a whole HTTP client would be the largest dependency of this
/// program.
async fn get_metrics(admin: &str) -> Result<String> {
    const LIMIT: u64 = 16 << 20;
    let exchange = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request =
            format!("GET /metrics HTTP/1.0\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LIMIT).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(5), exchange)
        .await
        .with_context(|| format!("http://{admin}/metrics did not answer within 5 s"))?
        .with_context(|| format!("read http://{admin}/metrics"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("http://{admin}/metrics gave no HTTP answer")
    };
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "http://{admin}/metrics answered {status:?}"
    );
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_this_process_runs_with_its_work() {
        let clock = ProcessClock::of_self().unwrap();
        let before = clock.now().unwrap();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(started.elapsed());
        }
        assert!(clock.now().unwrap() > before);
    }

    #[test]
    fn a_process_that_is_not_there_is_told_by_its_number() {
        let error = format!("{:#}", Probe::local(0x7fff_fff0).unwrap_err());
        assert!(error.contains("2147483632"), "{error}");
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a b\nprocess_cpu_seconds_total_more 3\nprocess_cpu_seconds_total 1.5\nwith{a=\"b c\"} 7\n";
        assert_eq!(metric(text, "process_cpu_seconds_total"), Some(1.5));
        assert_eq!(metric(text, "with"), Some(7.0));
        assert_eq!(metric(text, "process_cpu"), None);
    }

    #[tokio::test]
    async fn metrics_are_read_over_plain_http_and_a_refusal_is_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 200 OK\r\n\r\nprocess_cpu_seconds_total 2.5\n",
                "HTTP/1.1 503 busy\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /metrics "));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let probe = Probe::metrics(&admin).await.unwrap();
        let error = probe.cpu().await.unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
        server.await.unwrap();
    }
}
