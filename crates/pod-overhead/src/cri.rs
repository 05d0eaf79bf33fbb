//! The node's container runtime, through the Container Runtime Interface, version 1.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, ImageStatusRequest,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListPodSandboxRequest, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxStatusRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeConfigRequest, StartContainerRequest,
    StatusRequest, StopPodSandboxRequest, VersionRequest,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::pod::{Kind, LABEL, NAMESPACE, Network, PidMode, Run};

/// Where runtimes listen: containerd, CRI-O, cri-dockerd, k3s and RKE2.
pub const ENDPOINTS: [&str; 4] = [
    "unix:///run/containerd/containerd.sock",
    "unix:///run/crio/crio.sock",
    "unix:///run/cri-dockerd.sock",
    "unix:///run/k3s/containerd/containerd.sock",
];

/// How long one call may take. Even on a busy node, a call takes minutes only if something is wrong.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A connection to the runtime.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// The name and version of the runtime.
    pub version: String,
    /// The PID of the process that listens on the socket.
    pub daemon: Option<i32>,
}

/// What the runtime reports about itself.
#[derive(Default)]
pub struct About {
    /// Its default handler.
    pub default_handler: Option<String>,
    /// Its handlers; empty if it does not list them.
    pub handlers: Vec<String>,
    /// Whether it uses the systemd cgroup driver.
    pub is_systemd: bool,
}

/// What the runtime reports about a sandbox.
pub struct Sandbox {
    /// Its process.
    pub pid: i32,
    /// Its image.
    pub image: Option<String>,
}

impl Cri {
    /// Connects to this endpoint or, if none is given, to the first of [`ENDPOINTS`] whose socket exists.
    pub async fn connect(endpoint: Option<&str>) -> Result<Self> {
        let socket = match endpoint {
            Some(endpoint) => socket_of(endpoint)?,
            None => {
                let sockets = ENDPOINTS.map(|endpoint| socket_of(endpoint).expect("a socket"));
                let found = sockets.into_iter().find(|socket| socket.exists());
                found.with_context(|| {
                    let tried = ENDPOINTS.join(", ");
                    format!(
                        "no container runtime listens on {tried}: name its socket with --runtime-endpoint"
                    )
                })?
            }
        };
        // tonic reports every failure to connect as a mere transport error. A first connection without tonic
        // gives the exact error.
        let stream = UnixStream::connect(&socket).await.map_err(|error| {
            let name = socket.display();
            anyhow!(match error.kind() {
                ErrorKind::NotFound =>
                    format!("{name}: there is no such socket: is the runtime installed?"),
                ErrorKind::PermissionDenied =>
                    format!("{name}: permission denied: run this as root"),
                ErrorKind::ConnectionRefused =>
                    format!("{name}: nobody listens: the runtime is not running"),
                _ => format!("{name}: {error}"),
            })
        })?;
        let daemon = stream.peer_cred().ok().and_then(|credentials| credentials.pid());
        drop(stream);
        let path = socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // This address appears only in the HTTP headers; the connection uses the socket.
        let endpoint = Endpoint::from_static("http://cri").timeout(CALL_TIMEOUT);
        let channel = endpoint.connect_with_connector(connect).await.with_context(|| {
            format!("{}: the process that listens there does not speak gRPC", socket.display())
        })?;
        let mut runtime = RuntimeServiceClient::new(channel.clone());
        let images = ImageServiceClient::new(channel);
        let version = runtime.version(VersionRequest::default()).await;
        let version = version.map_err(|status| match status.code() {
            Code::Unimplemented => anyhow!(
                "{}: it does not speak version 1 of the CRI, which needs containerd 1.6, CRI-O 1.23, or \
                 newer; in containerd, the plugin `cri` may be disabled",
                socket.display()
            ),
            _ => explain(status, "ask the runtime for its version"),
        })?;
        let version = version.into_inner();
        let version = format!("{} {}", version.runtime_name, version.runtime_version);
        Ok(Self { runtime, images, version, daemon })
    }

    /// Fails if the runtime says that it cannot run pods now.
    pub async fn check_ready(&self, network: Network) -> Result<()> {
        let status = self.runtime.clone().status(StatusRequest { verbose: false }).await;
        let status = status.map_err(|status| explain(status, "ask the runtime for its status"))?;
        for condition in status.into_inner().status.unwrap_or_default().conditions {
            let matters = match condition.r#type.as_str() {
                "RuntimeReady" => true,
                "NetworkReady" => network == Network::Pod,
                // Newer versions of containerd also have a condition that reports deprecated settings.
                _ => false,
            };
            if matters && !condition.status {
                let hint = match condition.r#type.as_str() {
                    "NetworkReady" => ": configure CNI, or measure with --network node",
                    _ => "",
                };
                let (name, message) = (condition.r#type, condition.message.trim().to_owned());
                bail!("the runtime is not ready: {name} is false: {message}{hint}");
            }
        }
        Ok(())
    }

    /// Asks the runtime about itself. Older versions report less.
    pub async fn about(&self) -> Result<About> {
        let status = self.runtime.clone().status(StatusRequest { verbose: true }).await;
        let status = status.map_err(|status| explain(status, "ask the runtime for its status"))?;
        let status = status.into_inner();
        let info = status.info.get("config").and_then(|text| serde_json::from_str(text).ok());
        let config: serde_json::Value = info.unwrap_or_default();
        let containerd = &config["containerd"];
        let default_handler = containerd["defaultRuntimeName"].as_str();
        let handlers = status.runtime_handlers.into_iter().map(|handler| handler.name);
        let mut handlers: Vec<_> = handlers.filter(|name| !name.is_empty()).collect();
        if handlers.is_empty() {
            let runtimes = containerd["runtimes"].as_object();
            handlers = runtimes.into_iter().flat_map(|runtimes| runtimes.keys().cloned()).collect();
        }
        let driver = self.runtime.clone().runtime_config(RuntimeConfigRequest::default()).await;
        let is_systemd = match driver.map(|driver| driver.into_inner().linux) {
            // The number of SYSTEMD in the CRI.
            Ok(Some(linux)) => linux.cgroup_driver == 0,
            _ => {
                let name = default_handler.unwrap_or_default();
                containerd["runtimes"][name]["options"]["SystemdCgroup"] == true
            }
        };
        Ok(About { default_handler: default_handler.map(Into::into), handlers, is_systemd })
    }

    /// Fails if there is no image of this name.
    pub async fn check_image(&self, image: &str) -> Result<()> {
        let spec = ImageSpec { image: image.into(), ..Default::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: false };
        let status = self.images.clone().image_status(request).await;
        let status = status.map_err(|status| explain(status, "ask for an image"))?;
        status.into_inner().image.with_context(|| {
            format!("the image {image} is not on this node: pull or import it first")
        })?;
        Ok(())
    }

    /// Runs the sandbox of a pod, and returns its id.
    pub async fn run(&self, kind: &Kind, run: &Run, marker: &str) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(sandbox_config(kind, run, marker)),
            runtime_handler: kind.handler.clone(),
        };
        let answer = self.runtime.clone().run_pod_sandbox(request).await;
        Ok(answer.map_err(|status| explain(status, "run a sandbox"))?.into_inner().pod_sandbox_id)
    }

    /// Asks for the process and the image of a sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<Sandbox> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
        let answer = self.runtime.clone().pod_sandbox_status(request).await;
        let answer = answer.map_err(|status| match status.code() {
            Code::NotFound => anyhow!(
                "somebody else has removed a pod of this run. A kubelet removes all pods that it does not \
                 know: stop it while this runs (systemctl stop kubelet); the node's pods keep running"
            ),
            _ => explain(status, "ask for the status of a sandbox"),
        })?;
        let info = answer.into_inner().info;
        let text =
            info.get("info").context("the runtime does not report the process of a sandbox")?;
        let info: serde_json::Value =
            serde_json::from_str(text).context("parse what the runtime reports about a sandbox")?;
        let pid =
            info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0);
        Ok(Sandbox {
            pid: pid.context("the runtime does not report the process of a sandbox")?,
            image: info["image"].as_str().filter(|name| !name.is_empty()).map(Into::into),
        })
    }

    /// Creates and starts a container in a pod.
    pub async fn start_container(
        &self,
        kind: &Kind,
        run: &Run,
        marker: &str,
        sandbox: &str,
        number: usize,
        image: &str,
    ) -> Result<()> {
        let security = LinuxContainerSecurityContext {
            namespace_options: Some(namespaces(kind)),
            ..Default::default()
        };
        let linux = LinuxContainerConfig { security_context: Some(security), ..Default::default() };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: format!("container-{number}"), attempt: 0 }),
            image: Some(ImageSpec { image: image.into(), ..Default::default() }),
            linux: Some(linux),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config(kind, run, marker)),
        };
        let mut client = self.runtime.clone();
        let created = client.create_container(request).await;
        let created = created.map_err(|status| explain(status, "create a container"))?;
        let request = StartContainerRequest { container_id: created.into_inner().container_id };
        let started = client.start_container(request).await;
        started.map_err(|status| explain(status, "start a container"))?;
        Ok(())
    }

    /// Stops and removes a sandbox with all that is in it. A sandbox that no longer exists counts as removed.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let mut client = self.runtime.clone();
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        let stopped = client.stop_pod_sandbox(request).await;
        absent_is_fine(stopped.map(drop), "stop a sandbox")?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        let removed = client.remove_pod_sandbox(request).await;
        absent_is_fine(removed.map(drop), "remove a sandbox")
    }

    /// The sandboxes that this program has made: their ids, runs and markers (see [`Run::marker`]). If a run
    /// is given, only those of this run.
    pub async fn ours(&self, run: Option<&Run>) -> Result<Vec<(String, Run, String)>> {
        // The CRI selects labels only by key and value, so the sandboxes of all runs are filtered below.
        let filter = PodSandboxFilter {
            label_selector: run.map(|run| (LABEL.to_owned(), run.0.clone())).into_iter().collect(),
            ..Default::default()
        };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let list = self.runtime.clone().list_pod_sandbox(request).await;
        let list = list.map_err(|status| explain(status, "list the sandboxes"))?.into_inner();
        let ours = list.items.into_iter().filter_map(|mut sandbox| {
            let metadata = sandbox.metadata?;
            let run = sandbox.labels.remove(LABEL)?;
            (metadata.namespace == NAMESPACE).then_some((sandbox.id, Run(run), metadata.name))
        });
        Ok(ours.collect())
    }
}

fn socket_of(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    match Path::new(path).is_absolute() {
        true => Ok(path.into()),
        false => {
            bail!("--runtime-endpoint {endpoint}: it must be unix:///PATH, or an absolute path")
        }
    }
}

fn namespaces(kind: &Kind) -> NamespaceOption {
    let network = match kind.network {
        Network::Pod => NamespaceMode::Pod,
        Network::Node => NamespaceMode::Node,
    };
    let pid = match kind.pid {
        PidMode::Pod => NamespaceMode::Pod,
        PidMode::Container => NamespaceMode::Container,
        PidMode::Node => NamespaceMode::Node,
    };
    let (network, pid, ipc) = (network as i32, pid as i32, NamespaceMode::Pod as i32);
    NamespaceOption { network, pid, ipc, ..Default::default() }
}

fn sandbox_config(kind: &Kind, run: &Run, marker: &str) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata {
        name: marker.into(),
        uid: marker.into(),
        namespace: NAMESPACE.into(),
        attempt: 0,
    };
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(kind)),
        ..Default::default()
    };
    let linux = LinuxPodSandboxConfig {
        cgroup_parent: kind.cgroup_of(marker),
        security_context: Some(security),
        ..Default::default()
    };
    PodSandboxConfig {
        metadata: Some(metadata),
        // A pod on the node's network has the node's name.
        hostname: if kind.network == Network::Node { String::new() } else { "pod-overhead".into() },
        labels: HashMap::from([(LABEL.into(), run.0.clone())]),
        annotations: kind.annotations.iter().cloned().collect(),
        linux: Some(linux),
        ..Default::default()
    }
}

/// The runtime did not answer a call within [`CALL_TIMEOUT`]. It may still complete the call.
#[derive(Debug)]
pub struct NoAnswer(String);

impl Display for NoAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: no answer within {} s", self.0, CALL_TIMEOUT.as_secs())
    }
}

impl std::error::Error for NoAnswer {}

fn absent_is_fine(result: Result<(), Status>, what: &str) -> Result<()> {
    match result {
        Err(status) if status.code() != Code::NotFound => Err(explain(status, what)),
        _ => Ok(()),
    }
}

/// An error that says what a failed call means and, in some cases, what to do.
fn explain(status: Status, what: &str) -> Error {
    let message = status.message();
    let is = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if is(&["no runtime for", "failed to find runtime handler"]) {
        return anyhow!("the runtime has no such handler: {message}");
    }
    if is(&["sandbox image", "pause image", "get image from containerd"]) {
        return anyhow!(
            "the sandbox image is not on this node, and cannot be pulled: {message}: import it, or configure \
             another sandbox image in the runtime"
        );
    }
    if is(&["no space left on device"]) {
        return anyhow!("a file system of the runtime is full: {message}");
    }
    // The connection broke in the middle of a call.
    if is(&["transport error", "h2 protocol error", "broken pipe", "Connection reset"]) {
        return anyhow!("could not {what}: the runtime has gone away: {message}");
    }
    match status.code() {
        Code::PermissionDenied => anyhow!("could not {what}: {message}: run this as root"),
        Code::Unavailable => anyhow!("could not {what}: the runtime has gone away: {message}"),
        // tonic's own timeout.
        Code::Cancelled if message.contains("Timeout expired") => {
            Error::new(NoAnswer(what.to_owned()))
        }
        _ => anyhow!("could not {what}: {message}"),
    }
}
