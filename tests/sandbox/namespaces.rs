//! The namespaces of a sandbox: new ones, existing ones, and access to them.

use std::fs;

use podpause::{Namespace, Program};

use crate::harness::{
    KINDS, again, again_in, as_ordinary_user, case, is_root, namespace, programs, sandbox, skip,
    status, succeeds,
};

#[test]
fn new_ones_differ_from_the_callers() {
    for program in programs() {
        for kind in Namespace::ALL {
            let sandbox = sandbox(&program, &[kind]).spawn().unwrap();
            for other in Namespace::ALL {
                let (its, ours) = (namespace(sandbox.pid(), other), namespace("self", other));
                let is_new = other == kind || other == Namespace::User && !is_root();
                assert_eq!(its != ours, is_new, "{other:?} of a sandbox with {kind:?}");
                // The descriptor refers to the same namespace.
                let file = sandbox.namespace(other).unwrap();
                let link = fs::read_link(format!(
                    "/proc/self/fd/{}",
                    std::os::fd::AsRawFd::as_raw_fd(&file)
                ));
                assert_eq!(link.unwrap().display().to_string(), its);
            }
        }
    }
}

#[test]
fn each_kind_can_be_joined() {
    if !is_root() {
        skip!("root", "an ordinary user has to join the user namespace that owns them, too");
    }
    let program = Program::new().unwrap();
    let holder = program.sandbox().new_namespaces(Namespace::ALL).spawn().unwrap();
    for kind in Namespace::ALL {
        let path = format!("/proc/{}/ns/{}", holder.pid(), kind.name());
        for builder in [
            program.sandbox().join(kind, holder.namespace(kind).unwrap()),
            program.sandbox().join_path(kind, &path),
        ] {
            let mut sandbox = builder.spawn().unwrap();
            for other in Namespace::ALL {
                let from = if other == kind { holder.pid().to_string() } else { "self".into() };
                let (its, expected) = (namespace(sandbox.pid(), other), namespace(from, other));
                assert_eq!(its, expected, "{other:?} of a sandbox that joins {kind:?}");
            }
            assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
        }
    }
}

/// Runtimes give a pod new namespaces and let it join existing ones. A user namespace can be new or joined.
#[test]
fn are_joined_with_a_user_namespace_in_the_right_order() {
    if case().is_none() {
        let test = "namespaces::are_joined_with_a_user_namespace_in_the_right_order";
        succeeds(&mut again(test, "own"));
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let program = Program::new().unwrap();
    // The user namespace owns the two others, so an ordinary user can join them only after it.
    let kinds = [Namespace::Net, Namespace::User, Namespace::Ipc];
    let owner = program.sandbox().new_namespaces(kinds).spawn().unwrap();
    let mut builder = program.sandbox().new_namespaces([Namespace::Pid, Namespace::Uts]);
    for kind in kinds {
        builder = builder.join(kind, owner.namespace(kind).unwrap());
    }
    let joined = builder.spawn().unwrap();
    for kind in kinds {
        assert_eq!(namespace(joined.pid(), kind), namespace(owner.pid(), kind));
    }
    assert_eq!(status(joined.pid(), "NSpid"), format!("{} 1", joined.pid()));

    if is_root() {
        // A CNI plugin has created the network namespace, which the machine's user namespace owns. The pod
        // has a user namespace of its own.
        let cni = program.sandbox().new_namespaces([Namespace::Net]).spawn().unwrap();
        let pod = program
            .sandbox()
            .new_namespaces([Namespace::User, Namespace::Pid])
            .join(Namespace::Net, cni.namespace(Namespace::Net).unwrap())
            .spawn()
            .unwrap();
        assert_eq!(namespace(pod.pid(), Namespace::Net), namespace(cni.pid(), Namespace::Net));
        assert_ne!(namespace(pod.pid(), Namespace::User), namespace("self", Namespace::User));
    }
}

#[test]
fn ids_are_mapped() {
    if !is_root() {
        skip!("root", "an ordinary user can map only their own id");
    }
    let program = Program::new().unwrap();
    let builder = program.sandbox().new_namespaces([Namespace::User]);
    let builder = builder.map_uids(0, 100_000, 10).map_uids(50, 7, 1).map_gids(0, 300_000, 70_000);
    let sandbox = builder.spawn().unwrap();
    let map = |name: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{name}", sandbox.pid())).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(map("uid_map"), "0 100000 10 50 7 1");
    assert_eq!(map("gid_map"), "0 300000 70000");
}

#[test]
fn host_name_is_set() {
    let program = Program::new().unwrap();
    let long = "x".repeat(64);
    let sandbox = sandbox(&program, &[Namespace::Uts]).host_name(&long).spawn().unwrap();
    let mut command = std::process::Command::new("uname");
    command.arg("-n").stdout(std::process::Stdio::piped());
    let mut container = sandbox.start(command).unwrap();
    let said = std::io::read_to_string(container.stdout.take().unwrap()).unwrap();
    assert!(container.wait().unwrap().success());
    assert_eq!(said.trim_end(), long);
}

/// The root is a folder, and the sandbox has no other mount.
#[test]
fn root_is_changed() {
    if case().is_none() {
        let test = "namespaces::root_is_changed";
        succeeds(&mut again(test, "own"));
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mark"), "").unwrap();
    for program in programs() {
        let builder = program.sandbox().new_namespaces([Namespace::User, Namespace::Mount]);
        let mut sandbox = builder.root(folder.path()).spawn().unwrap();
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", sandbox.pid())).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        if is_root() {
            assert!(fs::exists(format!("/proc/{}/root/mark", sandbox.pid())).unwrap());
        }
        assert_eq!(sandbox.terminate().unwrap().code(), Some(0));
    }
}

/// Runs in a mount namespace of its own, so that its mounts end with the test.
#[test]
fn pinned_ones_outlive_pause() {
    let test = "namespaces::pinned_ones_outlive_pause";
    if case().is_none() {
        if !is_root() {
            skip!("root", "an ordinary user cannot mount anything");
        }
        let shell = ["unshare", "--mount", "--propagation", "private"];
        succeeds(&mut again_in(&shell, test, "inside"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pin = |kind: Namespace| folder.path().join(kind.name());
    let kinds = [Namespace::Net, Namespace::Ipc, Namespace::Uts];
    let program = Program::new().unwrap();
    let mut first = program.sandbox().new_namespaces(kinds).host_name("pinned").spawn().unwrap();
    let identity = kinds.map(|kind| namespace(first.pid(), kind));
    for kind in kinds {
        first.pin(kind, pin(kind)).unwrap();
        let again = first.pin(kind, pin(kind)).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    }
    first.terminate().unwrap();
    // The runtime starts another pause, which joins the pinned namespaces.
    let mut builder = program.sandbox();
    for kind in kinds {
        builder = builder.join_path(kind, pin(kind));
    }
    let second = builder.spawn().unwrap();
    assert_eq!(kinds.map(|kind| namespace(second.pid(), kind)), identity);
    for kind in kinds {
        rustix::mount::unmount(pin(kind), rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn unprivileged_user_cannot_pin() {
    if case().is_none() {
        let test = "namespaces::unprivileged_user_cannot_pin";
        succeeds(as_ordinary_user(&mut again(test, "ordinary")));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &[Namespace::Net]).spawn().unwrap();
    let error = sandbox.pin(Namespace::Net, &path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("pin the net namespace"), "{error}");
    assert!(!path.exists(), "a pin that fails leaves no file");
}

/// Mounts in the sandbox do not appear outside of it.
#[test]
fn mounts_do_not_propagate_out() {
    let test = "namespaces::mounts_do_not_propagate_out";
    if case().is_none() {
        if !is_root() {
            skip!("root", "only mounts of root propagate");
        }
        // Mounts propagate in this mount namespace, as they do on a machine with systemd.
        let shell = ["unshare", "--mount", "--propagation", "shared"];
        succeeds(&mut again_in(&shell, test, "inside"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let is_mounted = || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.contains(folder.path().to_str().unwrap())
    };
    let mount = |sandbox: &podpause::Sandbox| {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "none"]).arg(folder.path());
        assert!(sandbox.start(command).unwrap().wait().unwrap().success());
    };
    let program = Program::new().unwrap();
    mount(&program.sandbox().new_namespaces([Namespace::Mount]).spawn().unwrap());
    assert!(!is_mounted());
    // The negative control: in a namespace that is only cloned, the mount propagates.
    let command = &mut std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "unchanged", "mount", "-t", "tmpfs", "none"]);
    assert!(command.arg(folder.path()).status().unwrap().success());
    assert!(is_mounted());
    rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::empty()).unwrap();
}

/// With all of [`KINDS`] at once, as in a pod whose containers share its PID namespace.
#[test]
fn containers_see_those_of_the_sandbox() {
    let program = Program::new().unwrap();
    let sandbox = sandbox(&program, &KINDS).spawn().unwrap();
    let mut command = std::process::Command::new("readlink");
    command.args(KINDS.map(|kind| format!("/proc/self/ns/{}", kind.name())));
    command.stdout(std::process::Stdio::piped());
    let mut container = sandbox.start(command).unwrap();
    let said = std::io::read_to_string(container.stdout.take().unwrap()).unwrap();
    assert!(container.wait().unwrap().success());
    let its: Vec<_> = KINDS.map(|kind| namespace(sandbox.pid(), kind)).into();
    assert_eq!(said.lines().collect::<Vec<_>>(), its);
}
