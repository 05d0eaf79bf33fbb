//! A node of a real Kubernetes with its control plane, in its own cage.
//!
//! The cage has its own PID, mount, network, UTS and IPC namespaces, which end with the suite. Its root is
//! read-only, and the state of the node is in memory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::certificates::Certificates;
use crate::images::{self, Sandbox};
use crate::programs::Programs;
use common::cage::{Cage, Daemon, NETWORK};
use common::docs::snippet;
use common::images::PAUSE;

/// The name of the node, as `examples/kubernetes/node-name.yaml` has it.
pub const NAME: &str = "worker-0";

/// The path, in the cage, of the folder of programs.
pub const FOLDER: &str = "/run/kubernetes";

/// The address of the node. The kubelet refuses a loopback address, so this is one of those that are reserved
/// for documentation (RFC 5737).
const ADDRESS: &str = "192.0.2.1";

/// How long the cluster may take for anything. It is long because an action can have several steps, on a busy
/// machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// How often to poll a condition that cannot be watched.
pub const STEP: Duration = Duration::from_millis(50);

/// The registry that serves pulls from docker.io.
pub const REGISTRY: &str = "127.0.0.1:5000";

const SET_UP: &str = r#"
    mount -t tmpfs -o mode=1777 tmp /tmp
    mount -t tmpfs -o mode=755 log /var/log
    mkdir /var/lib/containerd
    mount -t tmpfs -o mode=711 images /var/lib/containerd
    # The kubelet sets these for the whole machine. Mounted files hide them from it.
    for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
        kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
        if [ -e /proc/sys/$name ]; then
            mkdir -p /run/sysctl/${name%/*}
            cat /proc/sys/$name >/run/sysctl/$name
            mount --bind /run/sysctl/$name /proc/sys/$name
        fi
    done
    # Mounts now cover files of /proc. In a user namespace, procfs can be mounted only if another, fully
    # visible instance exists.
    mkdir /run/proc
    mount -t proc proc /run/proc
    mount -o remount,bind,ro /
    busybox ip link set lo up
    busybox ip address add "$0/32" dev lo
    busybox hostname "$1"
"#;

/// The daemons that [`Node::switch`] restarts.
struct Daemons {
    containerd: Option<Daemon>,
    kubelet: Option<Daemon>,
}

pub struct Node {
    pub programs: Programs,
    pub client: Client,
    runtime: Runtime,
    /// The network namespace of the API server.
    network: File,
    daemons: Mutex<Daemons>,
    _control_plane: Vec<Daemon>,
    /// The daemons run in the cage, so it is the last field, and is dropped last.
    pub cage: Cage,
}

impl Node {
    /// Starts a node with this image for its sandboxes, and waits until it is ready. Returns `None` if this
    /// machine cannot run a cage.
    pub fn start(programs: &Programs, sandbox: &Sandbox) -> Option<Self> {
        let tools = ["busybox", "catatonit", "tar", "ctr", "sha256sum"];
        let cage = Cage::new("kubernetes", &tools)?;
        make_cgroups(&cage);
        cage.write(&format!("{FOLDER}/.keep"), "");
        attach(&cage, &programs.folder, FOLDER);
        cage.run(&["sh", "-ec", SET_UP, ADDRESS, NAME]);
        write_configuration(&cage, programs);

        let network = File::open(cage.path("/proc/1/ns/net")).unwrap();
        let inside = network.try_clone().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || enter(&inside))
            .build()
            .unwrap();
        let etcd = daemon(
            &cage,
            "etcd",
            &[
                "--data-dir=/run/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--logger=zap",
            ],
        );
        let api = daemon(
            &cage,
            "kube-apiserver",
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                "--bind-address=127.0.0.1",
                "--secure-port=6443",
                &format!("--advertise-address={ADDRESS}"),
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.98.0.0/24",
                "--authorization-mode=AlwaysAllow",
                "--client-ca-file=/run/node/authority.pem",
                "--tls-cert-file=/run/node/server.pem",
                "--tls-private-key-file=/run/node/server-key.pem",
                // No name server resolves the name of the node.
                "--kubelet-preferred-address-types=InternalIP",
                "--kubelet-certificate-authority=/run/node/authority.pem",
                "--kubelet-client-certificate=/run/node/client.pem",
                "--kubelet-client-key=/run/node/client-key.pem",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=/run/node/accounts.pem",
                "--service-account-signing-key-file=/run/node/accounts-key.pem",
                "--cert-dir=/run/node",
            ],
        );
        let mut control_plane = vec![etcd, api];
        let registry = programs
            .registry
            .map(|program| daemon(&cage, program, &["serve", "/run/node/registry.yaml"]));
        control_plane.extend(registry);

        let kubeconfig =
            Kubeconfig::from_yaml(&fs::read_to_string(cage.path("/run/node/kubeconfig")).unwrap());
        let config = runtime.block_on(Config::from_custom_kubeconfig(
            kubeconfig.unwrap(),
            &KubeConfigOptions::default(),
        ));
        let client = {
            let _guard = runtime.enter();
            Client::try_from(config.unwrap()).unwrap()
        };
        let daemons = Mutex::new(Daemons { containerd: None, kubelet: None });
        let mut node = Self {
            programs: programs.clone(),
            client,
            runtime,
            network,
            daemons,
            _control_plane: Vec::new(),
            cage,
        };
        node.start_containerd(sandbox);
        images::load(&node);
        node.enter();
        node.until("the API answers", || {
            let request = http_get("/readyz");
            assert!(!control_plane.iter_mut().any(Daemon::has_ended), "{}", node.last_words());
            node.block_on(node.client.request_text(request)).is_ok()
        });
        let kubeconfig = "--kubeconfig=/run/node/kubeconfig";
        let local = ["--leader-elect=false", "--bind-address=127.0.0.1", kubeconfig];
        let mut manager = vec![
            "--root-ca-file=/run/node/authority.pem",
            "--service-account-private-key-file=/run/node/accounts-key.pem",
        ];
        let mut scheduler = vec![];
        // Before 1.22, they had a second port, without TLS.
        if programs.kubernetes < 22 {
            manager.push("--port=0");
            scheduler.push("--port=0");
        }
        control_plane.push(daemon(
            &node.cage,
            "kube-controller-manager",
            &[&local[..], &manager].concat(),
        ));
        control_plane.push(daemon(
            &node.cage,
            "kube-scheduler",
            &[&local[..], &scheduler].concat(),
        ));
        node._control_plane = control_plane;
        node.start_kubelet(sandbox, json!({}));
        node.wait_until_ready();
        Some(node)
    }

    /// Moves the calling thread into the network namespace of the node. Each check's thread calls it first.
    pub fn enter(&self) {
        enter(&self.network);
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Runs this future to its end, or fails at the deadline.
    pub fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(DEADLINE, future).await };
        self.block_on(limited).unwrap_or_else(|_| panic!("never: {what}"))
    }

    /// Polls until `is_so` returns true, or fails at the deadline.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = std::time::Instant::now();
        while !is_so() {
            assert!(start.elapsed() < DEADLINE, "never: {what}\n{}", self.last_words());
            std::thread::sleep(STEP);
        }
    }

    /// Makes new pods use this sandbox, and adds these settings to the kubelet's configuration. It restarts
    /// containerd and the kubelet. Running pods keep their sandbox.
    pub fn switch(&self, sandbox: &Sandbox, settings: Value) {
        self.stop();
        self.start_containerd(sandbox);
        self.start_kubelet(sandbox, settings);
        self.wait_until_ready();
    }

    fn stop(&self) {
        let mut daemons = self.daemons.lock().unwrap();
        for daemon in [daemons.kubelet.take(), daemons.containerd.take()].into_iter().flatten() {
            daemon.stop();
        }
    }

    fn start_containerd(&self, sandbox: &Sandbox) {
        self.cage
            .write("/run/node/containerd.toml", containerd_configuration(&self.programs, sandbox));
        let containerd =
            daemon(&self.cage, "containerd", &["--config", "/run/node/containerd.toml"]);
        self.daemons.lock().unwrap().containerd = Some(containerd);
        self.until("containerd answers", || self.cage.output(&["ctr", "version"]).status.success());
    }

    fn start_kubelet(&self, sandbox: &Sandbox, settings: Value) {
        let minor = self.programs.kubernetes;
        let mut configuration = kubelet_configuration(minor, &self.cage.cgroup);
        let fields = configuration.as_object_mut().unwrap();
        fields.extend(settings.as_object().unwrap().clone());
        self.cage.write("/run/node/kubelet.json", configuration.to_string());
        let mut words = vec![
            "--config=/run/node/kubelet.json".to_owned(),
            "--kubeconfig=/run/node/kubeconfig".into(),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={ADDRESS}"),
            "--cert-dir=/var/lib/kubelet/pki".into(),
        ];
        if minor < 24 {
            words.push("--container-runtime=remote".into());
        }
        if minor < 27 {
            words.push(format!("--container-runtime-endpoint={CONTAINERD}"));
        }
        // The kubelet keeps this image. From 1.35 on, it asks the runtime which image to keep.
        if minor < 35 {
            words.push(format!("--pod-infra-container-image={}", sandbox.image));
        }
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.daemons.lock().unwrap().kubelet = Some(daemon(&self.cage, "kubelet", &words));
    }

    /// Waits until the node is ready. It also asks the kubelet itself, because the status of the node may be
    /// older than the kubelet's last restart.
    fn wait_until_ready(&self) {
        self.until("the node is ready", || {
            let ended = self.daemons.lock().unwrap().kubelet.as_mut().is_none_or(Daemon::has_ended);
            assert!(!ended, "the kubelet has ended\n{}", self.last_words());
            let health = http_get(&format!("/api/v1/nodes/{NAME}/proxy/healthz"));
            self.block_on(self.client.request_text(health)).is_ok_and(|answer| answer == "ok")
                && self.is_ready()
        });
    }

    fn is_ready(&self) -> bool {
        let node = http_get(&format!("/api/v1/nodes/{NAME}"));
        let Ok(node) = self.block_on(self.client.request::<Value>(node)) else { return false };
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let mut true_ones = conditions.filter(|condition| condition["status"] == "True");
        // There must be no pressure of any kind, because new pods would otherwise not be scheduled.
        true_ones.next().is_some_and(|condition| condition["type"] == "Ready")
            && true_ones.next().is_none()
            && node["spec"]["taints"].is_null()
    }

    /// The last lines of the daemons' logs.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for name in [
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "containerd",
            "kubelet",
        ] {
            let log =
                fs::read_to_string(self.cage.path(&format!("/run/log/{name}"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(15);
            text += &format!("--- {name}\n{}\n", lines[from..].join("\n"));
        }
        text
    }

    /// What pods have on the node while they run, and may leave behind: processes, mounts, network namespaces
    /// and interfaces, cgroups, and folders of the kubelet.
    pub fn leftovers(&self) -> BTreeSet<String> {
        let names = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string())
        };
        let processes = names(self.cage.path("/proc")).filter_map(|path| {
            let pid: i32 = path.rsplit_once('/')?.1.parse().ok()?;
            let name = self.cage.proc(&format!("{pid}/comm"));
            let is_of_the_node =
                ["etcd", "kube-", "containerd\n", "kubelet", "docker-registry", "registry"];
            // PID 1 of the cage is a pause, too.
            let is_of_a_pod =
                pid != 1 && !is_of_the_node.iter().any(|start| name.starts_with(start));
            is_of_a_pod.then(|| format!("process {pid} {name:?}"))
        });
        let mounts = self.cage.proc("1/mounts");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let of_pods =
            ["/run/containerd/", "/run/netns/", "/var/run/netns/", "/var/lib/kubelet/pods/"];
        let points = points.filter(|point| of_pods.iter().any(|start| point.starts_with(start)));
        let cgroups = self.cage.cgroups().into_iter().flat_map(|path| pods_below(&path));
        let networks = names(self.cage.path("/run/netns"));
        let pods = names(self.cage.path("/var/lib/kubelet/pods"));
        let interfaces = self.cage.proc("1/net/dev");
        let interfaces = interfaces.lines().filter_map(|line| line.split_once(':'));
        let interfaces =
            interfaces.map(|(name, _)| name.trim()).filter(|name| name.starts_with("veth"));
        let interfaces: Vec<_> = interfaces.map(|name| format!("interface {name}")).collect();
        processes
            .chain(points.map(|point| format!("mount {point}")))
            .chain(networks)
            .chain(pods)
            .chain(cgroups)
            .chain(interfaces)
            .collect()
    }
}

/// The cgroups of pods below this one.
fn pods_below(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found = Vec::new();
    for folder in folders {
        if folder.file_name().to_string_lossy().starts_with("pod") {
            found.push(folder.path().display().to_string());
        }
        found.extend(pods_below(&folder.path()));
    }
    found
}

pub fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

const CONTAINERD: &str = "unix:///run/containerd/containerd.sock";

fn daemon(cage: &Cage, program: &str, words: &[&str]) -> Daemon {
    let path =
        format!("PATH={FOLDER}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let words = [&["env", &path, "HOME=/tmp", program][..], words].concat();
    cage.daemon(&words, &format!("/run/log/{program}"))
}

fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Mounts a folder of this machine in the cage, even if `PODPAUSE_ROOT` gives the cage another root.
fn attach(cage: &Cage, folder: &Path, inside: &str) {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, folder, flags).unwrap();
    let mounts = File::open(cage.path("/proc/1/ns/mnt")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: only UnshareFlags::FILES makes this call unsafe, and it is not set. With FS, this
            // thread gets its own root and working directory, and it ends below.
            unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
            move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)).unwrap();
            move_mount(tree, "", CWD, inside, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        });
    });
}

/// Makes the parent of the kubelet's cgroups in every hierarchy. The cage removes it.
fn make_cgroups(cage: &Cage) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).unwrap().flatten().map(|entry| entry.path());
    let hierarchies = hierarchies.filter(|path| path.join("cgroup.procs").exists());
    let is_v2 = root.join("cgroup.controllers").exists();
    let parents: Vec<_> = match is_v2 {
        true => {
            // Without these controllers, the kubelet refuses to start. It enables them only further down.
            for controller in ["cpu", "cpuset", "memory", "pids", "hugetlb", "io"] {
                let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            vec![root.to_owned()]
        }
        // With cgroup v1, the cage has unmounted the v2 hierarchy, `unified`.
        false => hierarchies.filter(|path| !path.ends_with("unified")).collect(),
    };
    for parent in parents {
        // Two names may be links to the same hierarchy, and then the second call fails.
        let _ = fs::create_dir(parent.join(&cage.cgroup));
    }
}

fn write_configuration(cage: &Cage, programs: &Programs) {
    let certificates = Certificates::new(&["127.0.0.1", ADDRESS, "localhost"]);
    let write = |name: &str, content: &str| cage.write(&format!("/run/node/{name}"), content);
    write("authority.pem", &certificates.authority);
    for (name, pair) in [
        ("server", &certificates.server),
        ("client", &certificates.client),
        ("accounts", &certificates.accounts),
    ] {
        write(&format!("{name}.pem"), &pair.certificate);
        write(&format!("{name}-key.pem"), &pair.key);
    }
    let encoded = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "suite",
        "contexts": [{ "name": "suite", "context": { "cluster": "suite", "user": "suite" } }],
        "clusters": [{ "name": "suite", "cluster": {
            "server": "https://127.0.0.1:6443",
            "certificate-authority-data": encoded(&certificates.authority),
        }}],
        "users": [{ "name": "suite", "user": {
            "client-certificate-data": encoded(&certificates.client.certificate),
            "client-key-data": encoded(&certificates.client.key),
        }}],
    });
    write("kubeconfig", &kubeconfig.to_string());
    write("resolv.conf", "");
    cage.write("/run/cni/pods.conflist", NETWORK);
    cage.write("/run/log/.keep", "");
    if programs.registry.is_some() {
        let registry = json!({
            "version": 0.1,
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": "/run/registry" } },
            "http": { "addr": REGISTRY },
        });
        write("registry.yaml", &registry.to_string());
        let hosts =
            format!("[host.\"http://{REGISTRY}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        cage.write("/run/registries/docker.io/hosts.toml", hosts);
    }
}

/// The configuration from `docs/containerd.md`, and what containerd needs in a cage.
fn containerd_configuration(programs: &Programs, sandbox: &Sandbox) -> String {
    let (setting, images, runtime) = match programs.containerd.0 {
        1 => ("sandbox_image", "io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.cri"),
        _ => ("pinned_images", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"),
    };
    let bin = match programs.containerd {
        (1, _) => format!("bin_dir = {:?}", programs.cni),
        _ => format!("bin_dirs = [{:?}]", programs.cni),
    };
    let opened = format!("[plugins.\"{runtime}\"]\n");
    let opened = if programs.containerd.0 == 1 { "" } else { &opened };
    let conf = snippet("containerd.md", "toml", setting).replace(PAUSE, &sandbox.image);
    format!(
        r#"{conf}
{opened}restrict_oom_score_adj = true
[plugins."{runtime}".cni]
{bin}
conf_dir = "/run/cni"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
BinaryName = "{}"
[plugins."{images}".registry]
config_path = "/run/registries"
[plugins."io.containerd.internal.v1.opt"]
path = "/run/opt"
"#,
        programs.runtime
    )
}

fn kubelet_configuration(minor: u32, cgroup: &str) -> Value {
    // Without CAP_SYS_RESOURCE, the kernel refuses a lower OOM score than the current one.
    let own_oom_score: i32 =
        fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": "/run/node/authority.pem" },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "evictionHard": { "memory.available": "10Mi" },
        "evictionPressureTransitionPeriod": "1s",
        "failSwapOn": false,
        // The kubelet removes images only if a check asks for it.
        "imageGCHighThresholdPercent": 100,
        "kubeAPIBurst": 200,
        "kubeAPIQPS": 100,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": own_oom_score,
        "resolvConf": "/run/node/resolv.conf",
        // How often the kubelet syncs a pod, which also updates the volumes of changed Secrets.
        "syncFrequency": "5s",
        "tlsCertFile": "/run/node/server.pem",
        "tlsPrivateKeyFile": "/run/node/server-key.pem",
        "volumePluginDir": "/run/node/plugins",
    });
    let fields = configuration.as_object_mut().unwrap();
    if minor >= 27 {
        fields.insert("containerRuntimeEndpoint".into(), CONTAINERD.into());
    }
    if minor >= 31 {
        fields.insert("failCgroupV1".into(), false.into());
    }
    configuration
}
