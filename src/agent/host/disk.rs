//! How full the filesystem of a directory is, through the eyes of the process that writes there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx};

use crate::model::disk::{Disk, Holds};

/// Where a server writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Its data directory; both families make it their working directory.
    pub data: Option<PathBuf>,
    pub binary_log: Option<PathBuf>,
}

/// The working directory of a process, as it names it itself.
///
/// # Errors
/// When the process is gone, or belongs to another user and nothing allows to look.
pub fn working_directory(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd"))
}

/// The filesystems of these places, each once. With `pid` as that process sees them: another mount namespace shows other mounts, and
/// a service manager may show its units a disk as read-only that others may write to. Places that cannot be looked at are left out.
pub fn look(places: &Places, pid: Option<u32>) -> Vec<Disk> {
    let of = |place: &PathBuf, holds| {
        let through = pid.and_then(|pid| one(&inside(pid, place), holds).ok());
        through.or_else(|| {
            let (device, disk) = one(place, holds).ok()?;
            Some((device, Disk { read_only: false, ..disk }))
        })
    };
    // As the agent sees it, which is who would put another in its place.
    let mounted = places.data.as_ref().is_some_and(|place| is_mount_point(place));
    let data = places.data.as_ref().and_then(|place| of(place, Holds::Data));
    let data = data.map(|(device, disk)| (device, Disk { data_is_mount_point: mounted, ..disk }));
    let log = places.binary_log.as_ref().and_then(|place| of(place, Holds::BinaryLog));
    match (data, log) {
        (Some((one, disk)), Some((other, _))) if one == other => {
            vec![Disk { holds: Holds::Everything, ..disk }]
        }
        (data, log) => data.into_iter().chain(log).map(|(_, disk)| disk).collect(),
    }
}

fn inside(pid: u32, place: &Path) -> PathBuf {
    Path::new(&format!("/proc/{pid}/root")).join(place.strip_prefix("/").unwrap_or(place))
}

/// Something is mounted right there, be it another directory of the same filesystem: it cannot be renamed.
pub fn is_mount_point(directory: &Path) -> bool {
    let asked = statx(CWD, directory, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    let told = asked.ok().filter(|seen| seen.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT));
    if let Some(seen) = told {
        return seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    // Linux before 5.8 does not say.
    let device = |path: &Path| fs::metadata(path).map(|seen| seen.dev()).ok();
    directory.parent().is_some_and(|parent| device(parent) != device(directory))
}

/// Bytes an ordinary user may still write to the filesystem of a directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn free(directory: &Path) -> io::Result<u64> {
    Ok(one(directory, Holds::Data)?.1.free)
}

/// Its device and the filesystem's figures (statvfs(3)).
fn one(directory: &Path, holds: Holds) -> io::Result<(u64, Disk)> {
    let device = fs::metadata(directory)?.dev();
    let seen = statvfs(directory)?;
    let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
    let read_only = seen.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok((
        device,
        Disk {
            holds,
            free: bytes(seen.f_bavail),
            size: bytes(seen.f_blocks),
            read_only,
            data_is_mount_point: false,
        },
    ))
}
