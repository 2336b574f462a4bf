//! The workloads that come with the program: the files of the folder `workloads/`.

/// Their names and texts.
pub const SHIPPED: [(&str, &str); 6] = [
    ("hackbench", include_str!("../../../workloads/hackbench.json")),
    ("build", include_str!("../../../workloads/build.json")),
    ("frames", include_str!("../../../workloads/frames.json")),
    ("mixed", include_str!("../../../workloads/mixed.json")),
    ("services", include_str!("../../../workloads/services.json")),
    ("wakeups", include_str!("../../../workloads/wakeups.json")),
];
