//! Runs many pods at once that contain only pause. Reports the memory of their sandboxes, as the kubelet's
//! cAdvisor counts it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams};
use kube::runtime::wait::await_condition;

use crate::images::Sandbox;
use crate::node::{self, Node, http_get};
use crate::pods::example;
use common::report::tell;

pub const FILE: &str = "density.yaml";

/// The working set. The kubelet uses it to decide which pods to evict.
const METRIC: &str = "container_memory_working_set_bytes";

pub fn many_pods_run_at_once(node: &Node, sandbox: &Sandbox) {
    let replicas = example(FILE)[0]["spec"]["replicas"].as_u64().unwrap() as usize;
    let applied = node.apply(FILE);
    let deployments: Api<Deployment> = Api::default_namespaced(node.client.clone());
    let is_available = |deployment: Option<&Deployment>| {
        let status = deployment.and_then(|deployment| deployment.status.as_ref());
        status.and_then(|status| status.available_replicas) == Some(replicas as i32)
    };
    node.within("all pods are available", await_condition(deployments, "density", is_available))
        .unwrap();

    let params = ListParams::default().labels("app=density");
    let pods = node.pod("").api;
    let pods = node.within("pods are listed", pods.list(&params)).unwrap().items;
    assert_eq!(pods.len(), replicas);
    let addresses: BTreeSet<_> =
        pods.iter().map(|pod| pod.status.as_ref().unwrap().pod_ip.clone()).collect();
    assert_eq!(addresses.len(), replicas, "each pod has an address of its own");
    let mut sandboxes = BTreeSet::new();
    for pod in &pods {
        let containers = node.containers(pod.metadata.uid.as_ref().unwrap());
        assert_eq!(containers.len(), 2, "a sandbox and a container");
        for container in containers {
            if container.is_sandbox {
                sandboxes.insert(container.id);
            }
        }
    }
    assert_eq!(sandboxes.len(), replicas);

    // A sample that was taken while the runtime started the sandbox includes the runtime's own memory, so
    // only later samples count.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let mut sizes = Vec::new();
    node.until("cAdvisor has looked at each sandbox", || {
        sizes = working_sets(node, &sandboxes, now);
        sizes.len() == replicas
    });
    sizes.sort_unstable();
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let mean = kib(sizes.iter().sum::<u64>()) / replicas as f64;
    tell(&format!(
        "working set of {replicas} sandboxes with {}, by the kubelet's cAdvisor: mean {mean:.1} KiB, median {:.0}, from {:.0} to {:.0} (Kubernetes 1.{}, containerd {}.{}, {} {}.{})",
        sandbox.label,
        kib(sizes[replicas / 2]),
        kib(sizes[0]),
        kib(sizes[replicas - 1]),
        node.programs.kubernetes,
        node.programs.containerd.0,
        node.programs.containerd.1,
        node.programs.runtime,
        node.programs.runtime_version.0,
        node.programs.runtime_version.1,
    ));
    applied.delete();
}

/// The working sets, in bytes, of these sandboxes, without those that cAdvisor has not sampled after
/// `since_ms` (milliseconds since 1970).
///
/// In newer versions of the kubelet, the row for the sandbox has the container name `POD`. In older versions,
/// it has no container name. The row for the whole pod has none either, so the name cannot tell the two
/// apart. So this finds a sandbox by its cgroup, whose path ends with the id of the sandbox.
fn working_sets(node: &Node, sandboxes: &BTreeSet<String>, since_ms: u128) -> Vec<u64> {
    let request = http_get(&format!("/api/v1/nodes/{}/proxy/metrics/cadvisor", node::NAME));
    let text = node.within("metrics are read", node.client.request_text(request)).unwrap();
    let rows = text.lines().filter_map(|line| {
        let (labels, rest) = line.strip_prefix(METRIC)?.strip_prefix('{')?.split_once("} ")?;
        let id = labels.split_once("id=\"")?.1.split_once('"')?.0;
        let (value, time_ms) = rest.split_once(' ')?;
        let is_new = time_ms.parse::<u128>().ok()? > since_ms;
        let is_wanted = is_new && sandboxes.contains(id.rsplit('/').next()?);
        is_wanted.then_some(value.parse::<f64>().ok()? as u64)
    });
    rows.collect()
}
