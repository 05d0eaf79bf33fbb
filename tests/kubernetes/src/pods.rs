//! Pods on the node: made from the examples or from JSON, observed through the API, in the containers and on
//! the node, and deleted.

use std::fs;
use std::path::Path;

use futures::AsyncBufReadExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, ServiceAccount};
use kube::api::{
    Api, ApiResource, AttachParams, DeleteParams, DynamicObject, GroupVersionKind, LogParams,
    PostParams,
};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::Node;

/// The examples: their names and texts.
pub fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kubernetes");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut examples: Vec<_> = files
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&file).unwrap())
        })
        .collect();
    examples.sort();
    examples
}

/// The objects of an example, as they are in its file.
pub fn example(name: &str) -> Vec<Value> {
    let examples = examples();
    let (_, text) = examples.iter().find(|(file, _)| file == name).expect("the example is there");
    // kubectl reads YAML 1.1, in which 0440 is octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(text, options)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Objects in the cluster. They are deleted at the end, even if a check fails.
pub struct Applied<'n> {
    node: &'n Node,
    objects: Vec<DynamicObject>,
}

/// The namespace of an object that names none.
const DEFAULT: &str = "default";

impl Node {
    /// Makes the objects of an example.
    pub fn apply(&self, file: &str) -> Applied<'_> {
        self.create(example(file))
    }

    /// Makes these objects, in this order.
    pub fn create(&self, objects: Vec<Value>) -> Applied<'_> {
        let mut applied = Applied { node: self, objects: Vec::new() };
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            if let Some(namespace) = object.metadata.namespace.as_deref().or(Some(DEFAULT))
                && !is_cluster_wide(&object)
            {
                self.wait_for_account(namespace);
            }
            let api = self.api(&object);
            let params = PostParams::default();
            let mut made = None;
            // Before 1.24, a service account gets its token only some time after it is created. Until then,
            // the API server refuses pods.
            self.until("the API server is ready for an object", || {
                let answer = self.within("an object is made", api.create(&params, &object));
                let again = matches!(&answer, Err(kube::Error::Api(status)) if status.reason == "ServerTimeout");
                made = Some(answer);
                !again
            });
            let made = made.expect("it was tried");
            applied.objects.push(made.unwrap_or_else(|error| panic!("{object:?}: {error}")));
        }
        applied
    }

    /// Why the API server refuses this object, or `None` if it accepts it. This is a dry run.
    pub fn refusal(&self, object: Value) -> Option<String> {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let params = PostParams { dry_run: true, ..Default::default() };
        let answer =
            self.within("the API server answers", self.api(&object).create(&params, &object));
        answer.err().map(|error| error.to_string())
    }

    /// Waits until pods can be made in a namespace. A controller has to make its service account first.
    fn wait_for_account(&self, namespace: &str) {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let is_there = |account: Option<&ServiceAccount>| account.is_some();
        let wait = await_condition(api, "default", is_there);
        self.within("a namespace has its service account", wait).unwrap();
    }

    fn api(&self, object: &DynamicObject) -> Api<DynamicObject> {
        let types = object.types.as_ref().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).unwrap());
        match is_cluster_wide(object) {
            true => Api::all_with(self.client.clone(), &resource),
            false => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or(DEFAULT);
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        }
    }

    /// The pod of this name in the default namespace.
    pub fn pod(&self, name: &str) -> PodOn<'_> {
        self.pod_in(DEFAULT, name)
    }

    pub fn pod_in(&self, namespace: &str, name: &str) -> PodOn<'_> {
        PodOn {
            node: self,
            api: Api::namespaced(self.client.clone(), namespace),
            name: name.into(),
        }
    }
}

fn is_cluster_wide(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == "Namespace")
}

impl Applied<'_> {
    /// Deletes all objects, and waits until they are gone. Containers that ignore SIGTERM, such as a shell as
    /// PID 1, are killed after a second.
    pub fn delete(mut self) {
        let params = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::background() };
        self.remove(&params).unwrap();
    }

    fn remove(&mut self, params: &DeleteParams) -> Result<(), String> {
        // It deletes the newest object first, because that may need older ones.
        for object in self.objects.drain(..).rev() {
            let (name, api) = (object.metadata.name.as_deref().unwrap(), self.node.api(&object));
            let uid = object.metadata.uid.as_deref().unwrap();
            let gone = async {
                let params = params.clone();
                match api.delete(name, &params).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                    Err(error) => return Err(error.to_string()),
                    Ok(_) => {}
                }
                await_condition(api.clone(), name, conditions::is_deleted(uid))
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(())
            };
            self.node.within(&format!("{name} is gone"), gone)?;
        }
        Ok(())
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        if !self.objects.is_empty() {
            // A check has failed, and its panic says why. Another error here would only hide that.
            let params =
                DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
            let remove = std::panic::AssertUnwindSafe(|| self.remove(&params));
            let _ = std::panic::catch_unwind(remove);
        }
    }
}

/// A pod, by its name.
pub struct PodOn<'n> {
    pub node: &'n Node,
    pub api: Api<Pod>,
    pub name: String,
}

impl PodOn<'_> {
    pub fn get(&self) -> Pod {
        self.node.within("the API answers", self.api.get(&self.name)).unwrap()
    }

    pub fn uid(&self) -> String {
        self.get().metadata.uid.unwrap()
    }

    /// Waits until `is_so` is true for the pod, and returns the pod.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Pod) -> bool) -> Pod {
        let is_so = |pod: Option<&Pod>| pod.is_some_and(&is_so);
        let wait = await_condition(self.api.clone(), &self.name, is_so);
        let limited = async { tokio::time::timeout(crate::node::DEADLINE, wait).await };
        match self.node.block_on(limited) {
            Ok(pod) => pod.unwrap().unwrap(),
            Err(_) => {
                let pod = self.node.block_on(self.api.get_opt(&self.name));
                let status = pod.map(|pod| pod.and_then(|pod| pod.status));
                panic!("never: {}: {what}\n{status:#?}\n{}", self.name, self.node.last_words())
            }
        }
    }

    /// Waits until the pod is ready, and returns it.
    pub fn wait_until_ready(&self) -> Pod {
        self.wait("is ready", is_ready)
    }

    /// Waits until the pod has ended, and returns it.
    pub fn wait_for_end(&self) -> Pod {
        self.wait("has ended", |pod| matches!(phase(pod), "Succeeded" | "Failed"))
    }

    pub fn address(&self) -> String {
        self.get().status.unwrap().pod_ip.unwrap()
    }

    pub fn status_of(&self, container: &str) -> ContainerStatus {
        status_of(&self.get(), container)
    }

    /// Runs a command in a container, and returns what it prints. It has to succeed.
    pub fn exec(&self, container: &str, words: &[&str]) -> String {
        self.try_exec(container, words)
            .unwrap_or_else(|error| panic!("{words:?} in {}: {error}", self.name))
    }

    /// The same for a script.
    pub fn sh(&self, container: &str, script: &str) -> String {
        self.exec(container, &["sh", "-c", script])
    }

    /// Runs a command in a container, and returns what it prints, or how it failed.
    pub fn try_exec(&self, container: &str, words: &[&str]) -> Result<String, String> {
        let run = async {
            let params = AttachParams::default().container(container);
            let words = words.iter().copied();
            let mut process = self
                .api
                .exec(&self.name, words, &params)
                .await
                .map_err(|error| error.to_string())?;
            let status = process.take_status().unwrap();
            let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
            let (mut output, mut errors) = (String::new(), String::new());
            let (one, two) = tokio::join!(
                stdout.read_to_string(&mut output),
                stderr.read_to_string(&mut errors)
            );
            one.and(two).map_err(|error| error.to_string())?;
            let status = status.await.unwrap_or_default();
            match status.status.as_deref() {
                Some("Success") => Ok(output),
                _ => Err(format!("{status:?} {output}{errors}")),
            }
        };
        self.node.within("a command in a container ends", run)
    }

    /// Types a line into the terminal of a running container, and returns the output up to the text `end`.
    pub fn attach(&self, container: &str, line: &str, end: &str) -> String {
        let run = async {
            let params = AttachParams::interactive_tty().container(container);
            let mut process = self.api.attach(&self.name, &params).await.unwrap();
            let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
            stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&seen).contains(end) {
                let count = stdout.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "the terminal ended: {}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8_lossy(&seen).into_owned()
        };
        self.node.within(&format!("{end:?} is on the terminal"), run)
    }

    /// What a container has printed up to now.
    pub fn logs(&self, container: &str) -> String {
        let params = LogParams { container: Some(container.into()), ..Default::default() };
        self.node.within("the logs are read", self.api.logs(&self.name, &params)).unwrap()
    }

    /// The lines that each of these containers prints until it ends. They are read while `meanwhile` runs,
    /// which may delete the pod.
    pub fn follow(&self, containers: &[&str], meanwhile: impl AsyncFnOnce()) -> Vec<Vec<String>> {
        let read = async |container: &str| {
            let params =
                LogParams { container: Some(container.into()), follow: true, ..Default::default() };
            self.api.log_stream(&self.name, &params).await.unwrap()
        };
        let run = async {
            let streams = futures::future::join_all(containers.iter().map(|name| read(name))).await;
            let lines = streams
                .into_iter()
                .map(|stream| futures::TryStreamExt::try_collect::<Vec<_>>(stream.lines()));
            let (lines, ()) = tokio::join!(futures::future::join_all(lines), meanwhile());
            // The kubelet may ask for the state of a container that is already gone, and append the error.
            let is_of_the_kubelet = |line: &String| line.starts_with("rpc error: code = NotFound");
            let lines = lines.into_iter().map(Result::unwrap);
            lines
                .map(|lines| lines.into_iter().filter(|line| !is_of_the_kubelet(line)).collect())
                .collect()
        };
        self.node.within("the logs end", run)
    }

    /// Waits until the pod has a sandbox on the node, and returns it.
    pub fn sandbox(&self) -> Container {
        let uid = self.uid();
        let mut found = None;
        self.node.until(&format!("{} has a sandbox", self.name), || {
            found = self.node.containers(&uid).into_iter().find(|container| container.is_sandbox);
            found.is_some()
        });
        found.unwrap()
    }

    /// A running container of the pod, by its name.
    pub fn container(&self, name: &str) -> Container {
        let containers = self.node.containers(&self.uid());
        containers.into_iter().find(|container| container.name == name).unwrap()
    }

    /// The rows of `ps` in a container: process id, user, command.
    pub fn ps(&self, container: &str) -> Vec<(i32, String, String)> {
        rows(&self.exec(container, &["ps", "-o", "pid,user,args"]))
    }
}

/// The rows of `ps -o pid,user,args`.
pub fn rows(text: &str) -> Vec<(i32, String, String)> {
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (pid, user) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        Some((pid, user, words.collect::<Vec<_>>().join(" ")))
    });
    rows.collect()
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub fn status_of(pod: &Pod, container: &str) -> ContainerStatus {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().find(|status| status.name == container).cloned().unwrap_or_default()
}

/// A container, from the files of containerd's shim.
pub struct Container {
    pub id: String,
    /// Its name in the pod; a sandbox has none.
    pub name: String,
    pub is_sandbox: bool,
    /// The PID, on the node, of its first process.
    pub pid: i32,
    /// Its OCI configuration, `config.json`.
    pub config: Value,
}

impl Node {
    /// The running containers of a pod, including its sandbox.
    pub fn containers(&self, uid: &str) -> Vec<Container> {
        let folder = self.cage.path("/run/containerd/io.containerd.runtime.v2.task/k8s.io");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let of_pod = format!("/pod{uid}/");
        let containers = entries.filter_map(|entry| {
            // A container that is just being made or removed lacks some of these files.
            let config = fs::read_to_string(entry.path().join("config.json")).ok()?;
            let config: Value = serde_json::from_str(&config).ok()?;
            let pid = fs::read_to_string(entry.path().join("init.pid")).ok()?.parse().ok()?;
            let annotation = |name: &str| {
                let value = config["annotations"][format!("io.kubernetes.cri.{name}")].as_str();
                value.unwrap_or_default().to_owned()
            };
            let is_of_pod = config["linux"]["cgroupsPath"].as_str()?.contains(&of_pod);
            let runs = !self.cage.proc(&format!("{pid}/cmdline")).is_empty();
            (is_of_pod && runs).then(|| Container {
                id: entry.file_name().into_string().unwrap(),
                name: annotation("container-name"),
                is_sandbox: annotation("container-type") == "sandbox",
                pid,
                config: config.clone(),
            })
        });
        containers.collect()
    }

    /// A field of `/proc/PID/status`, where PID is that on the node.
    pub fn status_field(&self, pid: i32, field: &str) -> String {
        let status = self.cage.proc(&format!("{pid}/status"));
        let start = format!("{field}:");
        let line = status.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{pid} has no {field}: {status}")).trim().to_owned()
    }

    /// The namespace of this kind that a process is in.
    pub fn namespace(&self, pid: i32, kind: &str) -> std::path::PathBuf {
        fs::read_link(self.cage.path(&format!("/proc/{pid}/ns/{kind}"))).unwrap()
    }
}

/// A pod with one container that runs busybox, with these fields added to its `spec`.
pub fn shell(name: &str, script: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "containers": [{
                "name": "shell",
                "image": "busybox:1.37",
                "command": ["sh", "-c", script],
            }],
        },
    });
    let fields = pod["spec"].as_object_mut().unwrap();
    fields.extend(spec.as_object().unwrap().clone());
    pod
}
