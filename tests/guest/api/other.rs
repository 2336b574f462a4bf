//! Another sched_ext scheduler: the smallest there is.

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, ObjectBuilder};

/// The name under which the kernel lists it.
pub const NAME: &str = "other";

/// Attaches it, until the link is dropped.
pub fn attach() -> Result<Link> {
    libbpf_rs::set_print(None);
    let code = include_bytes!(concat!(env!("OUT_DIR"), "/other_test.bpf.o"));
    let object = ObjectBuilder::default().open_memory(code).context("cannot read the object")?;
    let mut object = object.load().context("cannot load the other scheduler")?;
    let ops = object.maps_mut().find(|map| map.name() == "other_ops");
    ops.context("no other_ops")?.attach_struct_ops().context("cannot attach the other scheduler")
}
