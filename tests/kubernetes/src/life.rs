//! The life of a sandbox: orphans leave no zombies, a killed sandbox is replaced, garbage collection keeps
//! its image, and nothing is left of deleted pods.

use rustix::fs::statvfs;
use serde_json::json;

use crate::images::{self, GARBAGE, GARBAGE_BYTES, Sandbox};
use crate::node::{DEADLINE, Node, STEP};
use crate::pods::{is_ready, shell};

/// How many orphans each check makes.
const ORPHANS: usize = 200;

/// A pod whose containers share a PID namespace.
fn sharing(name: &str) -> serde_json::Value {
    shell(name, "exec sleep 1000000", json!({ "shareProcessNamespace": true }))
}

/// Orphans that are not traced. pause ignores SIGCHLD, so the kernel reaps these orphans itself and does not
/// wake pause.
pub fn ordinary_orphans_leave_no_zombie(node: &Node, sandbox: &Sandbox) {
    let (before, after) = wake_ups(node, sandbox, "ordinary");
    if sandbox.is_ours() {
        assert_eq!(before, after, "pause was woken");
    }
}

/// Orphans that ask PID 1 to trace them, and then end. The kernel does not reap these orphans itself.
pub fn traced_orphans_leave_no_zombie(node: &Node, sandbox: &Sandbox) {
    wake_ups(node, sandbox, "traced");
}

/// Makes orphans of this kind as an ordinary user, and waits until no zombie is left. Returns the number of
/// voluntary context switches of the sandbox before and after.
fn wake_ups(node: &Node, image: &Sandbox, kind: &str) -> (String, String) {
    let name = format!("{kind}-orphans");
    let mut pod = sharing(&name);
    // A sandbox without capabilities cannot trace a process that has some. ptrace(2), PTRACE_TRACEME
    pod["spec"]["securityContext"] = json!({ "runAsUser": 1_000 });
    let applied = node.create(vec![pod]);
    let pod = node.pod(&name);
    pod.wait_until_ready();
    let sandbox = pod.sandbox().pid;
    // The sandbox must sleep before its context switches are read for the first time.
    node.until("the sandbox sleeps", || node.status_field(sandbox, "State").starts_with('S'));
    if image.is_ours() {
        node.cage.wait_for_pause(sandbox);
    }
    let switches = || node.status_field(sandbox, "voluntary_ctxt_switches");
    let before = switches();
    let made = pod.exec("shell", &["orphans", kind, &ORPHANS.to_string()]);
    assert_eq!(made.trim(), ORPHANS.to_string(), "all orphans were made");
    node.until("no zombie is left", || {
        let left = node.cage.children(sandbox);
        left.iter().all(|(_, state)| *state != 'Z')
    });
    let after = switches();
    let rows = pod.ps("shell");
    assert!(rows.iter().all(|row| !row.2.contains("orphans")), "{rows:?}");
    applied.delete();
    (before, after)
}

/// After the sandbox is killed on the node, the kubelet makes a new one, and starts the containers again.
pub fn a_killed_sandbox_is_replaced(node: &Node, _: &Sandbox) {
    let volume = json!({
        "shareProcessNamespace": true,
        "terminationGracePeriodSeconds": 1,
        "volumes": [{ "name": "kept", "emptyDir": {} }],
    });
    let mut pod = shell("killed-sandbox", "echo line >> /kept/lines; exec sleep 1000000", volume);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "kept", "mountPath": "/kept" }]);
    let applied = node.create(vec![pod]);
    let pod = node.pod("killed-sandbox");
    pod.wait_until_ready();
    let before = pod.sandbox();
    node.cage.run(&["kill", "-KILL", &before.pid.to_string()]);
    pod.wait("its container is started again", |pod| {
        is_ready(pod) && crate::pods::status_of(pod, "shell").restart_count == 1
    });
    let after = pod.sandbox();
    assert_ne!(before.id, after.id);
    let address = pod.address();
    let interface = pod.exec("shell", &["ip", "-o", "-4", "address", "show", "dev", "eth0"]);
    assert!(interface.contains(&format!("inet {address}/")), "{interface}");
    // A volume belongs to the pod, and not to the sandbox.
    assert_eq!(pod.exec("shell", &["cat", "/kept/lines"]), "line\nline\n");
    applied.delete();
}

/// If disk space is low, the kubelet removes an image that no pod uses, and keeps the image of the sandbox.
pub fn the_image_survives_garbage_collection(node: &Node, sandbox: &Sandbox) {
    images::load_garbage(node);
    let has = |image: &str| images::names(node).iter().any(|name| name == image);
    assert!(has(GARBAGE) && has(&sandbox.image));
    // With the garbage, free space is below this threshold; without it, free space is above.
    let disk = statvfs(node.cage.path("/var/lib/containerd")).unwrap();
    let available = disk.f_bavail * disk.f_frsize;
    let threshold = (available + GARBAGE_BYTES / 2).to_string();
    node.switch(
        sandbox,
        json!({
            "evictionHard": { "imagefs.available": threshold },
            "imageMinimumGCAge": "1s",
        }),
    );
    node.until("the garbage is collected", || !has(GARBAGE));
    assert!(has(&sandbox.image), "{:?}", images::names(node));
    node.switch(sandbox, json!({}));
    // The image itself is still there, and not only its name: a new pod starts.
    let applied = node.create(vec![sharing("after-collection")]);
    let pod = node.pod("after-collection");
    pod.wait_until_ready();
    assert_eq!(pod.ps("shell").first().map(|row| row.2.clone()), Some(sandbox.command.clone()));
    applied.delete();
    // The kubelet may also have removed images that other checks need.
    images::load(node);
}

/// The other checks have deleted their pods. No processes, mounts, network namespaces, interfaces, cgroups or
/// folders of these pods are left.
pub fn nothing_is_left_of_the_pods(node: &Node, _: &Sandbox) {
    let start = std::time::Instant::now();
    loop {
        let left = node.leftovers();
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "left: {left:#?}");
        std::thread::sleep(STEP);
    }
    // The negative control: a running pod does leave something.
    let applied = node.create(vec![sharing("leaves-something")]);
    node.pod("leaves-something").wait_until_ready();
    assert!(!node.leftovers().is_empty());
    applied.delete();
}
