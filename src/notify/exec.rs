//! A program of the operator's, given one notice or order on its standard input. It gets a plain environment, no secret of ours, and is ended
//! with everything it started when its time is over.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much of what it complains of is kept, in bytes.
const COMPLAINT: usize = 1_000;
/// How long what it said may still be read when it has ended: a child of its own may hold the other end open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs `program` and waits for its end.
///
/// # Errors
/// When it cannot be started, ends otherwise than with 0, or not by `deadline`; with the first words of its standard error.
pub(crate) async fn run(program: &Path, json: &[u8], deadline: Instant) -> Result<(), String> {
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let within = deadline.saturating_duration_since(Instant::now());
    let ended = timeout_at(deadline, attend(&mut child, json)).await;
    if ended.is_err()
        && let Some(pid) = pid
        && let Err(error) = kill_process_group(pid, Signal::KILL)
    {
        tracing::debug!(error = %error, "it had ended just now");
    }
    let (status, said) = match ended {
        Err(_) => return Err(format!("it did not end within {} s and was killed", within.as_secs())),
        Ok(Err(error)) => return Err(format!("it cannot be waited for: {error}")),
        Ok(Ok(ended)) => ended,
    };
    if status.success() {
        return Ok(());
    }
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = said.trim();
    Err(if said.is_empty() {
        format!("it ended with {status}")
    } else {
        format!("it ended with {status}: {said}")
    })
}

async fn attend(child: &mut Child, json: &[u8]) -> std::io::Result<(std::process::ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let give = async move {
        if let Some(mut stdin) = stdin {
            // One that does not want to know is asked only how it ended.
            let _ = stdin.write_all(json).await;
            let _ = stdin.shutdown().await;
        }
    };
    let mut said = Vec::new();
    let hear = async {
        let Some(mut stderr) = stderr else { return };
        let mut part = [0_u8; 512];
        // Read to the end, kept in part: a full pipe would stop it.
        while let Ok(1..) = stderr.read(&mut part).await.inspect(|read| {
            let room = COMPLAINT.saturating_sub(said.len());
            said.extend_from_slice(&part[..(*read).min(room)]);
        }) {}
    };
    let status = {
        let mut talk = std::pin::pin!(async { tokio::join!(give, hear) });
        tokio::select! {
            status = child.wait() => {
                // It may have ended before its last words were read.
                let _ = timeout(LAST_WORDS, &mut talk).await;
                status?
            }
            _ = &mut talk => child.wait().await?,
        }
    };
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}
