//! Who writes to the files of a directory: a server that is just starting has them open before its pid file or socket tells of it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

/// A process that has a file open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    pub pid: u32,
    /// As the kernel has it (`/proc/PID/comm`).
    pub name: String,
    pub file: PathBuf,
}

fn writer_in(directory: &Path) -> io::Result<Option<Writer>> {
    let directory = fs::canonicalize(directory)?;
    let mut pids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.find_map(|pid| writes(pid, &directory)))
}

/// Some process that may write to a file below `directory`, as this process sees it: one of another mount namespace counts where the
/// file is the same, not where it has the same name. One that cannot be looked into is none. Reads `/proc` (proc(5)), which takes
/// milliseconds on a busy host.
///
/// # Errors
/// When the directory or `/proc` cannot be read.
pub async fn writer(directory: &Path) -> io::Result<Option<Writer>> {
    let directory = directory.to_owned();
    spawn_blocking(move || writer_in(&directory)).await.map_err(io::Error::other)?
}

fn writes(pid: u32, directory: &Path) -> Option<Writer> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let file = open.filter_map(Result::ok).find_map(|entry| {
        let file = fs::read_link(entry.path()).ok().filter(|file| file.starts_with(directory))?;
        let identity = |path: &Path| fs::metadata(path).ok().map(|seen| (seen.dev(), seen.ino()));
        let same = identity(&entry.path()).is_some_and(|its| identity(&file) == Some(its));
        (same && for_writing(pid, entry.file_name().to_str()?)?).then_some(file)
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Writer { pid, name, file })
}

/// Its access mode is among the flags of open(2), in octal.
fn for_writing(pid: u32, descriptor: &str) -> Option<bool> {
    const ACCESS_MODE: u32 = 0o3;
    let about = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).ok()?;
    let flags = about.lines().find_map(|line| line.strip_prefix("flags:"))?;
    Some(u32::from_str_radix(flags.trim(), 8).ok()? & ACCESS_MODE != 0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn who_writes_is_found_and_who_reads_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let data = fs::canonicalize(directory.path()).unwrap().join("data");
        fs::create_dir_all(data.with_extension("mha")).unwrap();
        fs::create_dir(&data).unwrap();
        let holds = |file: &Path, write: bool| {
            let opened = fs::File::options().read(true).write(write).create(write).open(file).unwrap();
            Command::new("sleep").arg("60").stdin(Stdio::from(opened)).spawn().unwrap()
        };
        let (log, beside) = (data.join("binlog.index"), data.with_extension("mha").join("ibdata1"));
        let mut writer = holds(&log, true);
        let mut reader = holds(&log, false);
        let mut elsewhere = holds(&beside, true);
        let found = writer_in(&data).unwrap().unwrap();
        assert_eq!((found.pid, found.file.as_path()), (writer.id(), log.as_path()));
        writer.kill().unwrap();
        writer.wait().unwrap();
        assert_eq!(writer_in(&data).unwrap(), None);
        for child in [&mut reader, &mut elsewhere] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(writer_in(&data.join("nowhere")).is_err());
    }
}
