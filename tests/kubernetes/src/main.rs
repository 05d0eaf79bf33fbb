//! Runs the pods of `examples/kubernetes` on a node of a real Kubernetes, first with pause as the sandbox,
//! and then with other pause programs, the peers. If a check fails with pause and also with a peer, the fault
//! is probably not in pause.
//!
//! `PODPAUSE_KUBERNETES` names a folder with etcd and the servers of Kubernetes 1.20 or newer. containerd,
//! its shim, `ctr`, runc or crun, and the CNI plugins may be in that folder, or else must be installed.
//! `PODPAUSE_PEER` names an archive with another pause image, in the format of `docker save`.

mod certificates;
mod density;
mod examples;
mod images;
mod life;
mod node;
mod pods;
mod programs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use images::Sandbox;
use node::Node;
use programs::Programs;

type Check = fn(&Node, &Sandbox);

/// How many checks run at once. They mostly wait, so this may be more than there are processors.
const AT_ONCE: usize = 16;

/// The checks that may run at the same time as others, in addition to the examples.
const TOGETHER: &[(&str, Check)] = &[
    ("a_killed_sandbox_is_replaced", life::a_killed_sandbox_is_replaced),
    ("ordinary_orphans_leave_no_zombie", life::ordinary_orphans_leave_no_zombie),
    ("traced_orphans_leave_no_zombie", life::traced_orphans_leave_no_zombie),
];

/// The checks that need the node for themselves, in this order.
const ALONE: &[(&str, Check)] = &[
    ("many_pods_run_at_once", density::many_pods_run_at_once),
    ("the_image_survives_garbage_collection", life::the_image_survives_garbage_collection),
    ("nothing_is_left_of_the_pods", life::nothing_is_left_of_the_pods),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let Some(folder) = std::env::var_os("PODPAUSE_KUBERNETES") else {
        common::report::skipped(
            "kubernetes",
            "PODPAUSE_KUBERNETES names no folder with a Kubernetes",
        );
        return ExitCode::SUCCESS;
    };
    let programs = match Programs::new(&PathBuf::from(&folder)) {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("PODPAUSE_KUBERNETES={}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    let peer =
        std::env::var_os("PODPAUSE_PEER").map(|file| Sandbox::archived(&PathBuf::from(file)));
    let sandboxes: Vec<_> =
        [Sandbox::pause(), Sandbox::catatonit()].into_iter().chain(peer).collect();
    if arguments.list {
        let trials = sandboxes.iter().flat_map(|sandbox| {
            let (together, alone) = trials(None, &programs, sandbox);
            together.into_iter().chain(alone)
        });
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let Some(node) = Node::start(&programs, &sandboxes[0]) else { return ExitCode::SUCCESS };
    let node = Arc::new(node);
    let mut has_failed = false;
    for (number, sandbox) in sandboxes.iter().enumerate() {
        if number > 0 {
            images::load_sandbox(&node, sandbox);
            node.switch(sandbox, serde_json::json!({}));
        }
        let (together, alone) = trials(Some(&node), &programs, sandbox);
        for (trials, at_once) in [(together, AT_ONCE), (alone, 1)] {
            let mut arguments = arguments.clone();
            arguments.test_threads = Some(arguments.test_threads.unwrap_or(at_once).min(at_once));
            has_failed |= libtest_mimic::run(&arguments, trials).has_failed();
        }
    }
    if has_failed {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The checks for a sandbox, on this node: those that may run together, and those that run alone.
fn trials(
    node: Option<&Arc<Node>>,
    programs: &Programs,
    sandbox: &Sandbox,
) -> (Vec<Trial>, Vec<Trial>) {
    let trial = |name: &str, check: Check| {
        let (node, label, sandbox) =
            (node.cloned(), format!("{}::{name}", sandbox.label), sandbox.clone());
        Trial::test(label, move || {
            let node = node.expect("without a node, trials are only listed");
            node.enter();
            // The message of the failure is that of the panic, without a prefix from libtest-mimic.
            catch_unwind(AssertUnwindSafe(|| check(&node, &sandbox))).map_err(|payload| {
                let text = payload.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Failed::from(text.unwrap_or_default())
            })
        })
    };
    let mut together: Vec<_> = examples::EXAMPLES
        .iter()
        .map(|(file, check)| {
            let name = file.trim_end_matches(".yaml").replace('-', "_");
            let missing = examples::missing(file, programs);
            if let (Some(why), Some(_)) = (&missing, node) {
                common::report::tell(&format!("{}::{name}: {why}", sandbox.label));
            }
            trial(&name, *check).with_ignored_flag(missing.is_some())
        })
        .collect();
    together.extend(TOGETHER.iter().map(|(name, check)| trial(name, *check)));
    let alone = ALONE.iter().map(|(name, check)| trial(name, *check)).collect();
    (together, alone)
}
