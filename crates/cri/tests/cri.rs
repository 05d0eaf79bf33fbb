//! Runs pods with pause as their sandbox in containerd. Like the kubelet, the tests use the CRI.
//!
//! `lives_as_a_pod` also runs with `catatonit -P` as the sandbox: if both fail, pause is not at fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use common::cage::{Cage, Job, NETWORK, find};
use common::docs::snippet;
use common::images::{self, BUSYBOX, PAUSE};
use common::report::skipped;
use common::wait::until;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::*;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Further settings that containerd 1.x needs in a cage (see `common::cage`). They continue the TOML table at
/// the end of the snippet from docs/containerd.md.
const IN_A_CAGE_1: &str = r#"
restrict_oom_score_adj = true
cni = { bin_dir = "/usr/lib/cni", conf_dir = "/run/cni" }
"#;

/// The same settings for containerd 2.x.
const IN_A_CAGE_2: &str = r#"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
cni = { bin_dirs = ["/usr/lib/cni"], conf_dir = "/run/cni" }
"#;

/// containerd in a cage, and the clients of its CRI.
struct Containerd {
    runtime: tokio::runtime::Runtime,
    client: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// The output of `containerd --version`.
    version: String,
    _daemon: Job,
    cage: Cage,
}

/// Makes a CRI message with these fields and the defaults of the others.
macro_rules! request {
    ($type:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $type { $($field $(: $value)?,)* ..Default::default() }
    };
}

impl Containerd {
    fn new(sandbox: &str) -> Option<Self> {
        let programs = ["containerd", "ctr", "runc", "busybox", "catatonit", "tar"];
        let cage = Cage::new("containerd", &programs)?;
        let version = cage.run(&["containerd", "--version"]);
        let (setting, in_a_cage) = match version.contains("/v2 ") {
            true => ("pinned_images", IN_A_CAGE_2),
            false => ("sandbox_image", IN_A_CAGE_1),
        };
        let conf = snippet("containerd.md", "toml", setting).replace(PAUSE, sandbox);
        cage.write("/run/containerd.toml", conf + in_a_cage);
        cage.write("/run/cni/pods.conflist", NETWORK);
        let daemon = ["containerd", "--config", "/run/containerd.toml"];
        let mut daemon = cage.start(&daemon, "/run/containerd.log", "/run/containerd.log");
        let log = cage.path("/run/containerd.log");
        until("containerd answers", || {
            assert!(!daemon.has_ended(), "{}", fs::read_to_string(&log).unwrap());
            cage.output(&["ctr", "version"]).status.success()
        });
        let mut archives = vec![images::busybox(&cage), images::catatonit(&cage)];
        // Imports pause, unless containerd is to pull the sandbox image from the registry: after an import,
        // it would already have the layer.
        if !sandbox.starts_with(REGISTRY) {
            archives.push(images::pause(&cage));
        }
        for archive in archives {
            cage.run(&["ctr", "--namespace", "k8s.io", "images", "import", &archive]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let socket = cage.path("/run/containerd/containerd.sock");
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let endpoint = Endpoint::from_static("http://cri").timeout(common::wait::DEADLINE);
        let channel = runtime.block_on(endpoint.connect_with_connector(connect)).unwrap();
        let client = RuntimeServiceClient::new(channel.clone());
        let images = ImageServiceClient::new(channel);
        let containerd = Self { runtime, client, images, version, _daemon: daemon, cage };
        let is_ready = || {
            let status =
                containerd.call(async |client| client.status(StatusRequest::default()).await);
            let conditions = status.status.unwrap().conditions;
            // Newer versions of containerd have another condition, which reports deprecated settings.
            let mut ready =
                conditions.iter().filter(|condition| condition.r#type.ends_with("Ready"));
            ready.all(|condition| condition.status)
        };
        until("runtime and network are ready", is_ready);
        Some(containerd)
    }

    /// Makes a call that has to succeed.
    fn call<T>(
        &self,
        call: impl AsyncFnOnce(
            &mut RuntimeServiceClient<Channel>,
        ) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> T {
        let mut client = self.client.clone();
        self.runtime.block_on(call(&mut client)).unwrap().into_inner()
    }

    /// The images that the CRI lists, by the first name of each.
    fn images(&self) -> BTreeMap<String, Image> {
        let mut client = self.images.clone();
        let list = self.runtime.block_on(client.list_images(ListImagesRequest::default()));
        let images = list.unwrap().into_inner().images.into_iter();
        images.map(|image| (image.repo_tags[0].clone(), image)).collect()
    }

    /// The image with this name.
    fn image(&self, name: &str) -> Image {
        let spec = request!(ImageSpec { image: name.into() });
        let status = request!(ImageStatusRequest { image: Some(spec) });
        let mut client = self.images.clone();
        let answer = self.runtime.block_on(client.image_status(status)).unwrap();
        answer.into_inner().image.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The configuration of a sandbox, as the CRI takes it.
    fn sandbox(&self, name: &str, namespaces: NamespaceOption) -> PodSandboxConfig {
        let metadata = request!(PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "default".into(),
        });
        let security =
            request!(LinuxSandboxSecurityContext { namespace_options: Some(namespaces) });
        let linux = request!(LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", self.cage.cgroup),
            security_context: Some(security),
        });
        let is_on_node =
            linux.security_context.as_ref().unwrap().namespace_options.as_ref().unwrap().network
                == NamespaceMode::Node as i32;
        request!(PodSandboxConfig {
            metadata: Some(metadata),
            hostname: if is_on_node { String::new() } else { name.into() },
            log_directory: format!("/run/logs/{name}"),
            linux: Some(linux),
        })
    }

    /// Starts a sandbox.
    fn run(&self, config: &PodSandboxConfig) -> Pod<'_> {
        let run = request!(RunPodSandboxRequest { config: Some(config.clone()) });
        let id = self.call(async |client| client.run_pod_sandbox(run).await).pod_sandbox_id;
        Pod { containerd: self, config: config.clone(), id }
    }

    /// Everything in the cage that belongs to pods: processes, mounts, network namespaces and cgroups.
    fn leftovers(&self) -> BTreeSet<String> {
        let names = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string())
        };
        let processes = names(self.cage.path("/proc")).filter_map(|path| {
            let pid: i32 = path.rsplit_once('/')?.1.parse().ok()?;
            let name = self.cage.proc(&format!("{pid}/cmdline"));
            // PID 1 of the cage is a pause, too.
            let is_of_a_pod = pid != 1 && !name.is_empty() && !name.contains("containerd.toml");
            is_of_a_pod.then_some(name)
        });
        let mounts = self.cage.proc("mounts");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let points = points.filter(|point| point.contains("containerd") || point.contains("netns"));
        let cgroups = names("/sys/fs/cgroup".into()).chain(["/sys/fs/cgroup".into()]);
        let cgroups = cgroups.map(|path| PathBuf::from(path).join(&self.cage.cgroup));
        let cgroups = cgroups.flat_map(names).filter(|path| PathBuf::from(path).is_dir());
        let networks = names(self.cage.path("/run/netns"));
        processes.chain(points.map(Into::into)).chain(networks).chain(cgroups).collect()
    }

    /// The namespace of this kind that a process of the cage is in.
    fn namespace(&self, pid: i32, kind: &str) -> PathBuf {
        fs::read_link(self.cage.path(&format!("/proc/{pid}/ns/{kind}"))).unwrap()
    }
}

/// A running sandbox.
struct Pod<'c> {
    containerd: &'c Containerd,
    config: PodSandboxConfig,
    id: String,
}

impl Pod<'_> {
    fn status(&self) -> PodSandboxStatusResponse {
        let status = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: true };
        self.containerd.call(async |client| client.pod_sandbox_status(status).await)
    }

    /// The PID of the sandbox's process, in the cage.
    fn pid(&self) -> i32 {
        pid(&self.status().info["info"])
    }

    fn address(&self) -> String {
        self.status().status.unwrap().network.unwrap().ip
    }

    /// Starts a container of this image.
    fn start(
        &self,
        name: &str,
        attempt: u32,
        image: &str,
        words: &[&str],
        security: LinuxContainerSecurityContext,
    ) -> String {
        let options = self
            .config
            .linux
            .as_ref()
            .unwrap()
            .security_context
            .as_ref()
            .unwrap()
            .namespace_options
            .clone();
        let security = LinuxContainerSecurityContext { namespace_options: options, ..security };
        let linux = request!(LinuxContainerConfig { security_context: Some(security) });
        let config = request!(ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt }),
            image: Some(request!(ImageSpec { image: image.into() })),
            args: words.iter().map(|word| word.to_string()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(linux),
        });
        let create = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id =
            self.containerd.call(async |client| client.create_container(create).await).container_id;
        let start = StartContainerRequest { container_id: id.clone() };
        self.containerd.call(async |client| client.start_container(start).await);
        id
    }

    /// Starts a container that sleeps.
    fn sleeper(&self, name: &str, attempt: u32) -> String {
        self.start(name, attempt, BUSYBOX, &["sleep", "100000"], Default::default())
    }

    fn container(&self, id: &str) -> ContainerStatusResponse {
        let status = ContainerStatusRequest { container_id: id.into(), verbose: true };
        self.containerd.call(async |client| client.container_status(status).await)
    }

    fn container_pid(&self, id: &str) -> i32 {
        pid(&self.container(id).info["info"])
    }

    fn exec(&self, container: &str, script: &str) -> String {
        let cmd = ["sh", "-c", script].map(Into::into).into();
        let exec = ExecSyncRequest { container_id: container.into(), cmd, timeout: 60 };
        let answer = self.containerd.call(async |client| client.exec_sync(exec).await);
        let error = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.exit_code, 0, "{script}: {error}");
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Stops and removes the pod with its containers.
    fn remove(self) {
        let stop = StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.containerd.call(async |client| client.stop_pod_sandbox(stop).await);
        let remove = RemovePodSandboxRequest { pod_sandbox_id: self.id };
        self.containerd.call(async |client| client.remove_pod_sandbox(remove).await);
    }
}

/// The PID in the verbose information that the CRI gives about a sandbox or a container.
fn pid(info: &str) -> i32 {
    let info: serde_json::Value = serde_json::from_str(info).unwrap();
    info["pid"].as_i64().unwrap() as i32
}

fn namespaces(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOption {
    let (network, pid, ipc) = (network as i32, pid as i32, ipc as i32);
    request!(NamespaceOption { network, pid, ipc })
}

const SHARED: fn() -> NamespaceOption =
    || namespaces(NamespaceMode::Pod, NamespaceMode::Pod, NamespaceMode::Pod);

/// Takes a pod, whose containers share its network, PID and IPC namespaces, through its whole life.
fn lives_as_a_pod(sandbox: &str, first: &str) {
    let Some(containerd) = Containerd::new(sandbox) else { return };
    let before = containerd.leftovers();
    let pod = containerd.run(&containerd.sandbox("pod", SHARED()));
    let (address, sandbox) = (pod.address(), pod.pid());
    let one = pod.sleeper("one", 0);
    let two = pod.sleeper("two", 0);
    let ps = pod.exec(&one, "ps -o pid,user,args");
    let rows: Vec<_> =
        ps.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(rows[0].join(" "), first);
    assert_eq!(rows.iter().filter(|row| row[2] == "sleep").count(), 2, "{ps}");
    assert_eq!(pod.exec(&two, "hostname"), "pod\n");
    pod.exec(&two, "for i in 1 2 3 4 5 6 7 8 9; do (true &); done");
    until("the orphans were reaped", || containerd.cage.children(sandbox).is_empty());
    // Removes one container and starts it again. The other one, the sandbox and the address stay.
    let stop = StopContainerRequest { container_id: one.clone(), timeout: 0 };
    containerd.call(async |client| client.stop_container(stop).await);
    let remove = RemoveContainerRequest { container_id: one };
    containerd.call(async |client| client.remove_container(remove).await);
    let one = pod.sleeper("one", 1);
    assert_eq!((pod.address(), pod.pid()), (address.clone(), sandbox));
    for container in [&one, &two] {
        let line = pod.exec(container, "ip -o -4 address show dev eth0");
        assert!(line.contains(&format!("inet {address}/")), "{line}");
    }
    assert_ne!(containerd.leftovers(), before);
    pod.remove();
    until("nothing is left of the pod", || containerd.leftovers() == before);
}

#[test]
fn lives_as_a_pod_with_pause() {
    lives_as_a_pod(PAUSE, "1 65535 /pause");
}

#[test]
fn lives_as_a_pod_with_catatonit() {
    lives_as_a_pod(images::CATATONIT, "1 0 /catatonit -P");
}

/// Tries each combination of the network, PID and IPC namespaces that a pod can ask for.
#[test]
fn namespace_options_take_effect() {
    let Some(containerd) = Containerd::new(PAUSE) else { return };
    use NamespaceMode::{Container, Node, Pod};
    for network in [Pod, Node] {
        for pid in [Pod, Container, Node] {
            for ipc in [Pod, Node] {
                let what = format!("network {network:?}, pid {pid:?}, ipc {ipc:?}");
                let options = namespaces(network, pid, ipc);
                let pod = containerd.run(&containerd.sandbox("pod", options));
                let container = pod.sleeper("one", 0);
                let (sandbox, container) = (pod.pid(), pod.container_pid(&container));
                for (kind, mode) in [("net", network), ("pid", pid), ("ipc", ipc)] {
                    let of = |pid| containerd.namespace(pid, kind);
                    assert_eq!(of(container) == of(1), mode == Node, "{kind}: {what}");
                    assert_eq!(of(sandbox) == of(1), mode == Node, "{kind}: {what}");
                    assert_eq!(of(container) == of(sandbox), mode != Container, "{kind}: {what}");
                }
                containerd.cage.wait_for_pause(sandbox);
                pod.remove();
            }
        }
    }
}

/// Runs the image as an ordinary container, as kubeadm does before an upgrade. Here, the sandbox and the
/// container are under our seccomp profile.
#[test]
fn pause_answers_as_an_ordinary_container() {
    let Some(containerd) = Containerd::new(PAUSE) else { return };
    let profile = "/run/seccomp.json";
    containerd.cage.write(profile, include_str!("../../../docs/seccomp.json"));
    let seccomp = || SecurityProfile {
        profile_type: ProfileType::Localhost as i32,
        localhost_ref: profile.into(),
    };
    let mut config = containerd.sandbox("pod", SHARED());
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.seccomp = Some(seccomp());
    let pod = containerd.run(&config);
    containerd.cage.wait_for_pause(pod.pid());
    let status = containerd.cage.proc(&format!("{}/status", pod.pid()));
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
    let security = request!(LinuxContainerSecurityContext {
        run_as_user: Some(Int64Value { value: 999 }),
        run_as_group: Some(Int64Value { value: 999 }),
        readonly_rootfs: true,
        no_new_privs: true,
        seccomp: Some(seccomp()),
    });
    let container = pod.start("version", 0, PAUSE, &["-v"], security);
    let status = || pod.container(&container).status.unwrap();
    until("it answered", || status().state == ContainerState::ContainerExited as i32);
    assert_eq!(status().exit_code, 0);
    let log = fs::read_to_string(containerd.cage.path("/run/logs/pod/version.log")).unwrap();
    let end = format!(" stdout F pause {}\n", images::version());
    assert!(log.ends_with(&end), "{log}");
    pod.remove();
}

/// When the disk is nearly full, the kubelet removes images that no container uses and that are not pinned.
/// The sandbox image has to stay: a node without a network cannot pull it again.
#[test]
fn sandbox_image_survives_garbage_collection() {
    let Some(containerd) = Containerd::new(PAUSE) else { return };
    let can_pin = !containerd.version.contains(" 1.6.");
    let images = containerd.images();
    assert_eq!(images[PAUSE].pinned, can_pin, "{}", containerd.version);
    assert!(!images[BUSYBOX].pinned && !images[images::CATATONIT].pinned);
    // Pins another image with a label, by the command in docs/air-gapped.md.
    let pin = snippet("air-gapped.md", "sh", "pinned").replace(PAUSE, BUSYBOX);
    containerd.cage.run(&["sh", "-ec", &pin]);
    if can_pin {
        until("the label has pinned it", || containerd.images()[BUSYBOX].pinned);
    }
    let images = containerd.images();
    for (name, image) in &images {
        // An older containerd does not report pinned images. There, the kubelet keeps the image that its
        // option --pod-infra-container-image names.
        if image.pinned || !can_pin && name == PAUSE {
            continue;
        }
        let spec = request!(ImageSpec { image: image.id.clone() });
        let remove = RemoveImageRequest { image: Some(spec) };
        containerd.runtime.block_on(containerd.images.clone().remove_image(remove)).unwrap();
    }
    let left = containerd.images();
    assert!(!left.contains_key(images::CATATONIT));
    assert_eq!(left.contains_key(BUSYBOX), can_pin);
    let pod = containerd.run(&containerd.sandbox("pod", SHARED()));
    containerd.cage.wait_for_pause(pod.pid());
    pod.remove();
}

/// The address of a registry in a cage.
const REGISTRY: &str = "127.0.0.1:5000";

/// As on most nodes, the sandbox image is in a registry, and containerd pulls it for the first pod.
#[test]
fn pulls_its_image_from_a_registry() {
    for program in ["docker-registry", "skopeo"] {
        if find(program).is_none() {
            return skipped("containerd", &format!("there is no {program}"));
        }
    }
    let name = format!("{REGISTRY}/infra/pause:{}", images::version());
    let Some(containerd) = Containerd::new(&name) else { return };
    let cage = &containerd.cage;
    cage.run(&["busybox", "ip", "link", "set", "lo", "up"]);
    let settings = format!(
        "version: 0.1\nhttp: {{ addr: '{REGISTRY}' }}\n\
         storage: {{ filesystem: {{ rootdirectory: /run/registry }} }}\n"
    );
    cage.write("/run/registry.yml", settings);
    let log = "/run/registry.log";
    let mut registry = cage.start(&["docker-registry", "serve", "/run/registry.yml"], log, log);
    let read_log = || fs::read_to_string(cage.path(log)).unwrap();
    until("the registry listens", || {
        assert!(!registry.has_ended(), "{}", read_log());
        read_log().contains("listening on ")
    });
    let there = format!("docker://{name}");
    let archive = format!("oci-archive:{}", images::pause(cage));
    let copy = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"];
    cage.run(&[&copy[..], &[&archive, &there]].concat());

    let pod = containerd.run(&containerd.sandbox("pod", SHARED()));
    cage.wait_for_pause(pod.pid());
    assert!(read_log().contains("\"GET /v2/infra/pause/blobs/sha256:"), "{}", read_log());
    pod.remove();
    // The image has the same ID whether it is imported, or pulled by its tag or by its digest.
    let inspect = ["skopeo", "inspect", "--raw", "--tls-verify=false", &there];
    let digest = cage.run(&["sh", "-c", &format!("{} | sha256sum", inspect.join(" "))]);
    let digest = digest.split_whitespace().next().unwrap();
    let by_digest = format!("{REGISTRY}/infra/pause@sha256:{digest}");
    cage.run(&["ctr", "--namespace", "k8s.io", "images", "import", &images::pause(cage)]);
    let imported = containerd.image(PAUSE).id;
    for pulled in [&name, &by_digest] {
        let pull = request!(PullImageRequest {
            image: Some(request!(ImageSpec { image: pulled.clone() }))
        });
        let mut client = containerd.images.clone();
        let answer = containerd.runtime.block_on(client.pull_image(pull)).unwrap();
        assert_eq!(answer.into_inner().image_ref, imported, "{pulled}");
    }
    // If the archive has all platforms, ctr also pulls the image of another one, which the CRI cannot do.
    if std::env::var_os("PODPAUSE_PROGRAMS").is_some() {
        let foreign = ["--platform", "linux/s390x", "--snapshotter", "native"];
        let root = "/run/foreign";
        fs::create_dir(cage.path(root)).unwrap();
        cage.run(&[&["ctr", "images", "pull", "--plain-http"], &foreign[..], &[&name]].concat());
        cage.run(&[&["ctr", "images", "mount"], &foreign[..], &[&name, root]].concat());
        let program = fs::read(cage.path("/run/foreign/pause")).unwrap();
        assert_eq!(program[18..20], [0, 22], "EM_S390, in big endian");
    }
}

const AT_ONCE: usize = 50;

#[test]
fn fifty_pods_start_at_once() {
    let Some(containerd) = Containerd::new(PAUSE) else { return };
    let before = containerd.leftovers();
    let configs: Vec<_> =
        (0..AT_ONCE).map(|number| containerd.sandbox(&format!("pod{number}"), SHARED())).collect();
    let ids = containerd.runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        for config in configs.clone() {
            let mut client = containerd.client.clone();
            let run = request!(RunPodSandboxRequest { config: Some(config) });
            set.spawn(async move { client.run_pod_sandbox(run).await });
        }
        set.join_all().await
    });
    let ids: Vec<_> =
        ids.into_iter().map(|answer| answer.unwrap().into_inner().pod_sandbox_id).collect();
    let pods =
        ids.into_iter().map(|id| Pod { containerd: &containerd, config: configs[0].clone(), id });
    let pods: Vec<_> = pods.collect();
    let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.address()).collect();
    assert_eq!(addresses.len(), AT_ONCE);
    for pod in &pods {
        containerd.cage.wait_for_pause(pod.pid());
    }
    pods.into_iter().for_each(Pod::remove);
    until("nothing is left of the pods", || containerd.leftovers() == before);
}
