//! Another sched_ext scheduler: the smallest there is.

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, ObjectBuilder};
use test_bpf::OTHER_SCHEDULER;

/// The name under which the kernel lists it.
pub const NAME: &str = "other";

/// Attaches it, until the link is dropped.
pub fn attach() -> Result<Link> {
    libbpf_rs::set_print(None);
    let mut builder = ObjectBuilder::default();
    let object = builder.open_memory(OTHER_SCHEDULER).context("cannot read the object")?;
    let mut object = object.load().context("cannot load the other scheduler")?;
    let ops = object.maps_mut().find(|map| map.name() == "other_ops");
    ops.context("no other_ops")?.attach_struct_ops().context("cannot attach the other scheduler")
}
