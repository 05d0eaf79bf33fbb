//! The id maps of a new user namespace. See user_namespaces(7).

use std::fmt::Write;
use std::fs;
use std::io::{self, ErrorKind};
use std::process::Command;

use rustix::process::{getegid, geteuid};

use super::error::Error;

/// A line of a map: the first id inside, the first id outside, and the number of ids.
pub(super) type Line = [u32; 3];

/// Writes the maps of a child's user namespace. By default, the caller's ids are 0 in that namespace.
///
/// A privileged process can map all ids that its own user namespace has. Any other process can map only its
/// own id. If the kernel denies a map, this function runs newuidmap(1) or newgidmap(1), which allow the
/// ranges of subuid(5) and subgid(5).
pub(super) fn write_maps(pid: i32, uids: &[Line], gids: &[Line]) -> Result<(), Error> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let own_uid = [[0, uid, 1]];
    let own_gid = [[0, gid, 1]];
    let uids = if uids.is_empty() { &own_uid } else { uids };
    let gids = if gids.is_empty() { &own_gid } else { gids };
    write_map(pid, "uid_map", "newuidmap", uids)?;
    if let [[_, outside, 1]] = gids
        && *outside == gid
        && uid != 0
    {
        // The kernel requires this before an unprivileged process maps its own group id.
        let file = format!("/proc/{pid}/setgroups");
        fs::write(&file, "deny").map_err(|error| Error::new(format!("write {file}"), error))?;
    }
    write_map(pid, "gid_map", "newgidmap", gids)
}

fn write_map(pid: i32, name: &str, helper: &str, lines: &[Line]) -> Result<(), Error> {
    let file = format!("/proc/{pid}/{name}");
    let mut text = String::new();
    for [inside, outside, count] in lines {
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    let doing = || format!("write {:?} to {name} of the user namespace", text.trim_end());
    match fs::write(&file, &text) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && geteuid().is_root() => {
            return Err(Error::new(doing(), error).advise(
                "root can map only ids that exist in its own user namespace (/proc/self/uid_map, \
                 gid_map), and needs CAP_SETUID and CAP_SETGID",
            ));
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            return Err(Error::new(doing(), error).advise(
                "ranges must not be empty, overlap or contain an id above 4294967294, and there \
                 can be at most 340 of them",
            ));
        }
        result => return result.map_err(|error| Error::new(doing(), error)),
    }
    let numbers: Vec<_> = lines.iter().flatten().map(ToString::to_string).collect();
    let output = match Command::new(helper).arg(pid.to_string()).args(&numbers).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let denied = io::Error::from_raw_os_error(libc::EPERM);
            return Err(Error::new(doing(), denied).advise(format!(
                "an ordinary user can map only their own id: to map more, install {helper} \
                 (package uidmap), or run as root"
            )));
        }
        // The kernel or another thread has reaped the helper. Its success shows in the map.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
            return match fs::read_to_string(&file) {
                Ok(map) if !map.trim().is_empty() => Ok(()),
                _ => Err(Error::new(format!("run {helper}"), error)),
            };
        }
        Err(error) => return Err(Error::new(format!("run {helper}"), error)),
    };
    if output.status.success() {
        return Ok(());
    }
    let (sub, option) = match name {
        "uid_map" => ("/etc/subuid", "--add-subuids"),
        _ => ("/etc/subgid", "--add-subgids"),
    };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(Error::new(doing(), io::Error::new(ErrorKind::PermissionDenied, said)).advise(format!(
        "give the user these ids in {sub}, for example with `usermod {option} FIRST-LAST USER`, or \
         map only the user's own id"
    )))
}
