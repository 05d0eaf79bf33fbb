//! The pods that this program makes, and what distinguishes them from all others.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use crate::processes::Identity;

/// The namespace of all our pods.
pub const NAMESPACE: &str = "pod-overhead";
/// The label of all our pods, whose value is the run.
pub const LABEL: &str = "pod-overhead/run";

/// Which network a pod uses.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own
    Pod,
    /// The node's
    Node,
}

/// Which PID namespace the containers of a pod use.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// One for all containers, in which the sandbox is PID 1
    Pod,
    /// One for each container
    Container,
    /// The node's
    Node,
}

/// A run of this program, identified by its process: the PID and the start time in clock ticks.
#[derive(Clone)]
pub struct Run(pub String);

impl Run {
    /// The run of this process.
    pub fn own() -> Result<Self> {
        let stat = Process::myself().and_then(|own| own.stat()).context("read /proc/self/stat")?;
        Ok(Self(format!("{}_{}", stat.pid, stat.starttime)))
    }

    /// Whether its process still exists.
    pub fn is_alive(&self, present: &HashSet<Identity>) -> bool {
        let numbers = self.0.split_once('_');
        let identity =
            numbers.and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
        identity.is_some_and(|identity| present.contains(&identity))
    }

    /// The marker: the name of this run's pod with this number, and of the pod's cgroup.
    pub fn marker(&self, number: usize) -> String {
        format!("podoverhead-{}-{number}", self.0)
    }
}

/// The settings that all pods of a measurement share.
#[derive(Clone)]
pub struct Kind {
    /// The runtime handler, empty for the default one.
    pub handler: String,
    /// The network.
    pub network: Network,
    /// The PID namespace.
    pub pid: PidMode,
    /// The parent of the cgroups of all pods; ignored with the systemd cgroup driver.
    pub cgroup_parent: String,
    /// Whether the runtime uses the systemd cgroup driver.
    pub is_systemd: bool,
    /// Annotations of the sandbox.
    pub annotations: Vec<(String, String)>,
}

impl Kind {
    /// The cgroup of the pod that has this marker.
    pub fn cgroup_of(&self, marker: &str) -> String {
        match self.is_systemd {
            true => format!("{marker}.slice"),
            // A relative path would be below the cgroup of the runtime.
            false => match self.cgroup_parent.trim_matches('/') {
                "" => format!("/{marker}"),
                parent => format!("/{parent}/{marker}"),
            },
        }
    }
}

/// A pod that runs.
#[derive(Clone)]
pub struct Pod {
    /// Its number in the run, from 0 on.
    pub number: usize,
    /// Its run.
    pub run: Run,
    /// The id of its sandbox.
    pub id: String,
    /// The process of its sandbox.
    pub pid: i32,
    /// The image of its sandbox, if the runtime reports it.
    pub image: Option<String>,
    /// The memory cgroup of the whole pod.
    pub cgroup: PathBuf,
}

impl Pod {
    /// See [`Run::marker`].
    pub fn marker(&self) -> String {
        self.run.marker(self.number)
    }
}

/// The cgroup of a pod: the ancestor of the sandbox's cgroup that is named after the marker, or else the
/// sandbox's own cgroup.
pub fn pod_cgroup(sandbox: PathBuf, marker: &str) -> PathBuf {
    let is_it = |path: &&std::path::Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.trim_end_matches(".slice") == marker
    };
    let found = sandbox.ancestors().find(is_it).map(Into::into);
    found.unwrap_or(sandbox)
}
