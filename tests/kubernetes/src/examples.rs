//! Checks that each file of `examples/kubernetes` does what its comment says.

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node as NodeObject};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};

use crate::images::Sandbox;
use crate::node::{self, Node};
use crate::pods::{PodOn, example, phase, status_of};
use common::images::version;

type Check = fn(&Node, &Sandbox);

/// The examples, each with its check. `density.yaml` has its own module.
pub const EXAMPLES: &[(&str, Check)] = &[
    ("host-aliases.yaml", host_aliases),
    ("host-namespaces.yaml", host_namespaces),
    ("lifecycle-hooks.yaml", lifecycle_hooks),
    ("node-name.yaml", node_name),
    ("node-selector.yaml", node_selector),
    ("pause-container.yaml", pause_container),
    ("projected-volumes.yaml", projected_volumes),
    ("restricted.yaml", restricted),
    ("seccomp-profile.yaml", seccomp_profile),
    ("shared-pid-namespace.yaml", shared_pid_namespace),
    ("shared-volume.yaml", shared_volume),
    ("upgrade-health-check.yaml", upgrade_health_check),
    ("user-namespace.yaml", user_namespace),
];

/// Why an example cannot run with these programs, or `None` if it can.
pub fn missing(file: &str, node: &crate::programs::Programs) -> Option<String> {
    let version = format!(
        "Kubernetes 1.{}, containerd {}.{}",
        node.kubernetes, node.containerd.0, node.containerd.1
    );
    let has_user_namespaces = node.kubernetes >= 33
        && node.containerd.0 >= 2
        && (node.runtime != "runc" || node.runtime_version >= (1, 2));
    match file {
        "user-namespace.yaml" if !has_user_namespaces => Some(format!(
            "{version} and {} {}.{} have no user namespaces",
            node.runtime, node.runtime_version.0, node.runtime_version.1
        )),
        "lifecycle-hooks.yaml" if node.registry.is_none() => {
            Some("there is no docker-registry to pull from".into())
        }
        _ => None,
    }
}

/// `ps` in this container shows the sandbox as PID 1 of the pod, with the user of its image.
fn sandbox_is_first(pod: &PodOn, container: &str, sandbox: &Sandbox) {
    sandbox_is_first_as(sandbox.user, pod, container, sandbox);
}

/// The same, but with this user instead of the image's.
fn sandbox_is_first_as(user: u32, pod: &PodOn, container: &str, sandbox: &Sandbox) {
    let rows = pod.ps(container);
    let is_root = user == 0;
    let user = user.to_string();
    let first = rows.iter().find(|(pid, _, _)| *pid == 1).expect("there is a PID 1");
    assert!(first.1 == user || is_root && first.1 == "root", "{first:?}");
    assert_eq!(first.2, sandbox.command);
    // The same, seen from the node.
    let on_node = pod.sandbox();
    let ids = pod.node.status_field(on_node.pid, "Uid");
    assert!(ids.split_whitespace().all(|id| id == user), "{ids}");
    let numbers = pod.node.status_field(on_node.pid, "NSpid");
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");
}

fn node_selector(node: &Node, _: &Sandbox) {
    let nodes: Api<NodeObject> = Api::all(node.client.clone());
    let label = |value: Value| {
        let patch = json!({ "metadata": { "labels": { "disktype": value } } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        node.within("the node has a label", nodes.patch(node::NAME, &params, &patch)).unwrap();
    };
    label(Value::Null);
    let applied = node.apply("node-selector.yaml");
    let pod = node.pod("node-selector");
    pod.wait("is refused by the scheduler", |pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    });
    assert_eq!(phase(&pod.get()), "Pending");
    label("ssd".into());
    let ready = pod.wait_until_ready();
    assert_eq!(ready.spec.unwrap().node_name.as_deref(), Some(node::NAME));
    applied.delete();
    label(Value::Null);
}

fn node_name(node: &Node, _: &Sandbox) {
    let applied = node.apply("node-name.yaml");
    let pod = node.pod("node-name");
    pod.wait_until_ready();
    let events: Api<Event> = Api::default_namespaced(node.client.clone());
    let of_pod = |reason: &str| {
        let uid = pod.uid();
        let params =
            ListParams::default().fields(&format!("involvedObject.uid={uid},reason={reason}"));
        node.within("events are listed", events.list(&params)).unwrap().items.len()
    };
    node.until("the kubelet has said that it started the container", || of_pod("Started") == 1);
    assert_eq!(of_pod("Scheduled"), 0);
    applied.delete();
}

fn host_aliases(node: &Node, _: &Sandbox) {
    let applied = node.apply("host-aliases.yaml");
    let pod = node.pod("host-aliases");
    assert_eq!(phase(&pod.wait_for_end()), "Succeeded");
    let hosts = pod.logs("cat");
    for line in ["127.0.0.1\tfoo.local\tbar.local", "10.1.2.3\tfoo.remote\tbar.remote"] {
        assert!(hosts.lines().any(|found| found == line), "{line} in {hosts}");
    }
    applied.delete();
}

fn shared_pid_namespace(node: &Node, sandbox: &Sandbox) {
    let applied = node.apply("shared-pid-namespace.yaml");
    let pod = node.pod("shared-pid-namespace");
    pod.wait_until_ready();
    sandbox_is_first(&pod, "shell", sandbox);
    let rows = pod.ps("shell");
    for command in ["httpd -f -p 80 -h /usr/share/nginx/html", "sh"] {
        assert_eq!(rows.iter().filter(|row| row.2 == command).count(), 1, "{command} in {rows:?}");
    }
    let seen = pod.attach("shell", "ps -o pid,user,args; echo the''end", "theend");
    assert!(
        seen.lines().any(|line| line
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .ends_with(&sandbox.command)),
        "{seen}"
    );
    // This file is in the other container's root. Reading it takes a capability, which the example adds.
    let httpd = rows.iter().find(|row| row.2.starts_with("httpd")).unwrap().0;
    let page =
        pod.exec("shell", &["cat", &format!("/proc/{httpd}/root/usr/share/nginx/html/index.html")]);
    assert_eq!(page, "stands in for nginx\n");
    applied.delete();
    // Without a shared PID namespace, the container's own command is PID 1, and the sandbox is not visible.
    let applied =
        node.create(vec![crate::pods::shell("own-pid-namespace", "exec sleep 1000000", json!({}))]);
    let pod = node.pod("own-pid-namespace");
    pod.wait_until_ready();
    let rows = pod.ps("shell");
    assert_eq!((rows[0].0, rows[0].2.as_str()), (1, "sleep 1000000"), "{rows:?}");
    assert!(rows.iter().all(|row| row.2 != sandbox.command), "{rows:?}");
    applied.delete();
}

fn host_namespaces(node: &Node, sandbox: &Sandbox) {
    let applied = node.apply("host-namespaces.yaml");
    let pod = node.pod("host-network-and-ipc");
    pod.wait_until_ready();
    sandbox_is_first(&pod, "shell", sandbox);
    let on_host = node.pod("host-pid");
    on_host.wait_until_ready();
    let rows = on_host.ps("shell");
    assert!(rows.iter().any(|row| row.2.starts_with("kubelet ")), "{rows:?}");
    let sandbox_pid = on_host.sandbox().pid;
    let row = rows.iter().find(|row| row.0 == sandbox_pid);
    assert_eq!(row.map(|row| row.2.as_str()), Some(sandbox.command.as_str()), "{rows:?}");
    for (pod, kinds) in [(&pod, &["net", "ipc"][..]), (&on_host, &["net", "ipc", "pid"])] {
        for pid in [pod.sandbox().pid, pod.container("shell").pid] {
            for kind in ["net", "ipc", "pid"] {
                let is_the_nodes = node.namespace(pid, kind) == node.namespace(1, kind);
                assert_eq!(is_the_nodes, kinds.contains(&kind), "{}: {kind} of {pid}", pod.name);
            }
        }
    }
    let mut both = example("host-namespaces.yaml").remove(1);
    both["metadata"]["name"] = "both".into();
    assert_eq!(node.refusal(both.clone()), None);
    both["spec"]["shareProcessNamespace"] = true.into();
    let refusal = node.refusal(both).expect("the API server refuses both");
    assert!(refusal.contains("shareProcessNamespace"), "{refusal}");
    applied.delete();
}

fn lifecycle_hooks(node: &Node, _: &Sandbox) {
    let applied = node.apply("lifecycle-hooks.yaml");
    let pod = node.pod("lifecycle-hooks");
    pod.wait_until_ready();
    let containers = ["always", "if-not-present", "never"];
    let delete = async || {
        pod.api.delete(&pod.name, &DeleteParams::default()).await.unwrap();
    };
    for lines in pod.follow(&containers, delete) {
        assert_eq!(lines, ["postStart", "preStop", "SIGTERM"]);
    }
    applied.delete();
}

fn shared_volume(node: &Node, _: &Sandbox) {
    let applied = node.apply("shared-volume.yaml");
    let pod = node.pod("shared-volume");
    pod.wait_until_ready();
    let page = || pod.exec("shell", &["wget", "-q", "-O", "-", "http://localhost/"]);
    node.until("the page is written", || {
        pod.try_exec("shell", &["test", "-s", "/html/index.html"]).is_ok()
    });
    assert_eq!(page(), "Hello from the other container\n");
    // nginx is killed and started again. The address, the volume and the sandbox stay.
    let (address, before) = (pod.address(), pod.sandbox());
    node.cage.run(&["kill", "-KILL", &pod.container("nginx").pid.to_string()]);
    pod.wait("nginx is started again", |pod| {
        let status = status_of(pod, "nginx");
        status.restart_count == 1 && status.ready
    });
    assert_eq!(page(), "Hello from the other container\n");
    assert_eq!((pod.address(), pod.sandbox().id), (address.clone(), before.id));
    let interface = pod.exec("shell", &["ip", "-o", "-4", "address", "show", "dev", "eth0"]);
    assert!(interface.contains(&format!("inet {address}/")), "{interface}");
    assert_eq!(pod.status_of("shell").restart_count, 0);
    applied.delete();
}

fn projected_volumes(node: &Node, _: &Sandbox) {
    let applied = node.apply("projected-volumes.yaml");
    let pod = node.pod("projected-volumes");
    pod.wait_until_ready();
    let read = |name: &str| pod.exec("shell", &["cat", &format!("/projected/{name}")]);
    assert_eq!(read("user"), "admin");
    assert_eq!(read("pass"), "1f2d1e2e67df");
    assert_eq!(read("level"), "debug");
    assert_eq!(read("labels"), "app=\"projected\"");
    assert_eq!(read("cpu"), "500");
    let modes = pod.sh("shell", "stat -L -c %a /projected/user /projected/pass");
    assert_eq!(modes, "440\n400\n");
    // The API server confirms to which account the token belongs, and accepts it only for its audience.
    let review = |audience: &str| {
        let review: TokenReview = serde_json::from_value(json!({
            "metadata": {},
            "spec": { "token": read("token"), "audiences": [audience] },
        }))
        .unwrap();
        let reviews: Api<TokenReview> = Api::all(node.client.clone());
        node.within("a token is reviewed", reviews.create(&PostParams::default(), &review))
            .unwrap()
            .status
            .unwrap()
    };
    let status = review("vault");
    assert_eq!(
        status.user.unwrap().username.as_deref(),
        Some("system:serviceaccount:default:default")
    );
    assert_ne!(review("another").authenticated, Some(true));
    applied.delete();
}

fn restricted(node: &Node, sandbox: &Sandbox) {
    let applied = node.apply("restricted.yaml");
    let pod = node.pod_in("restricted", "restricted");
    pod.wait_until_ready();
    sandbox_is_first_as(1_000, &pod, "shell", sandbox);
    assert_eq!(pod.sh("shell", "id -u; id -g"), "1000\n1000\n");
    let (shell, sandbox) = (pod.container("shell").pid, pod.sandbox().pid);
    for (field, value) in [("CapEff", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
        assert_eq!(node.status_field(shell, field), value, "{field}");
    }
    assert_eq!(node.status_field(sandbox, "Seccomp"), "2");
    let written = pod.try_exec("shell", &["touch", "/file"]);
    assert!(
        written.as_ref().is_err_and(|error| error.contains("Read-only file system")),
        "{written:?}"
    );
    // Since 1.23, the Pod Security label of the namespace takes effect by default.
    let mut other = example("host-namespaces.yaml").remove(1);
    other["metadata"]["namespace"] = "restricted".into();
    let refusal = node.refusal(other);
    if node.programs.kubernetes >= 23 {
        assert!(refusal.as_ref().is_some_and(|text| text.contains("PodSecurity")), "{refusal:?}");
    } else {
        assert_eq!(refusal, None);
    }
    applied.delete();
}

fn seccomp_profile(node: &Node, _: &Sandbox) {
    let profile = include_str!("../../../docs/seccomp.json");
    node.cage.write("/var/lib/kubelet/seccomp/podpause.json", profile);
    let applied = node.apply("seccomp-profile.yaml");
    let pod = node.pod("seccomp-profile");
    pod.wait_until_ready();
    let container = pod.container("pause");
    node.cage.wait_for_pause(container.pid);
    assert_eq!(node.status_field(container.pid, "Seccomp"), "2");
    let names = |profile: &Value| {
        let groups = profile["syscalls"].as_array().unwrap().iter();
        let names = groups.flat_map(|group| group["names"].as_array().unwrap());
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect::<std::collections::BTreeSet<_>>()
    };
    let ours = names(&serde_json::from_str(profile).unwrap());
    assert_eq!(names(&container.config["linux"]["seccomp"]), ours);
    // The sandbox has another profile, the runtime's default, which also allows the calls below.
    let sandbox = pod.sandbox();
    assert_eq!(node.status_field(sandbox.pid, "Seccomp"), "2");
    assert!(
        names(&sandbox.config["linux"]["seccomp"])
            .is_superset(&["openat2".into(), "mkdir".into()].into())
    );
    applied.delete();
    // The profile denies calls that it does not list: mkdir fails only in the confined container.
    let security =
        example("seccomp-profile.yaml")[0]["spec"]["containers"][0]["securityContext"].clone();
    let mut statuses = Vec::new();
    for (name, is_confined) in [("not-confined", false), ("confined", true)] {
        let mut shell = crate::pods::shell(name, "", json!({ "restartPolicy": "Never" }));
        let container = &mut shell["spec"]["containers"][0];
        container["command"] = json!(["mkdir", "/tmp/folder"]);
        if is_confined {
            container["securityContext"] = json!({ "seccompProfile": security["seccompProfile"] });
        }
        let applied = node.create(vec![shell]);
        statuses.push(phase(&node.pod(name).wait_for_end()).to_owned());
        applied.delete();
    }
    assert_eq!(statuses, ["Succeeded", "Failed"]);
}

fn pause_container(node: &Node, _: &Sandbox) {
    let applied = node.apply("pause-container.yaml");
    let pod = node.pod("pause-container");
    pod.wait_until_ready();
    node.cage.wait_for_pause(pod.container("pause").pid);
    // SIGTERM ends it. SIGKILL would come only after ten minutes, long after the deadline.
    let says = pod.follow(&["pause"], async || {
        pod.api.delete(&pod.name, &DeleteParams::default()).await.unwrap();
    });
    assert_eq!(says, [["pause: SIGTERM 15"]]);
    applied.delete();
}

fn upgrade_health_check(node: &Node, _: &Sandbox) {
    let applied = node.apply("upgrade-health-check.yaml");
    let jobs: Api<Job> = Api::namespaced(node.client.clone(), "kube-system");
    let wait = await_condition(jobs, "upgrade-health-check", conditions::is_job_completed());
    node.within("the job is complete", wait).unwrap();
    let pods = node.pod_in("kube-system", "");
    let params = ListParams::default().labels("job-name=upgrade-health-check");
    let list = node.within("pods are listed", pods.api.list(&params)).unwrap();
    let names: Vec<_> = list.items.into_iter().map(|pod| pod.metadata.name.unwrap()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let pod = node.pod_in("kube-system", &names[0]);
    let status = pod.status_of("upgrade-health-check").state.unwrap().terminated.unwrap();
    assert_eq!(status.exit_code, 0);
    assert_eq!(pod.logs("upgrade-health-check"), format!("pause {}\n", version()));
    applied.delete();
}

fn user_namespace(node: &Node, sandbox: &Sandbox) {
    let applied = node.apply("user-namespace.yaml");
    let pod = node.pod("user-namespace");
    pod.wait_until_ready();
    let map = pod.exec("shell", &["cat", "/proc/self/uid_map"]);
    let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [0, first, count] = numbers[..] else { panic!("{map}") };
    assert!(first > 0 && count > sandbox.user, "{map}");
    let rows = pod.ps("shell");
    let user = sandbox.user.to_string();
    assert!(
        rows.iter().any(|row| row.0 == 1
            && (row.1 == user || row.1 == "root")
            && row.2 == sandbox.command),
        "{rows:?}"
    );
    // On the node, the sandbox runs as the user to which its user in the pod is mapped.
    let on_node = (first + sandbox.user).to_string();
    let ids = node.status_field(pod.sandbox().pid, "Uid");
    assert!(ids.split_whitespace().all(|id| id == on_node), "{ids} is not {on_node}");
    applied.delete();
}
