//! The machines that guests have.

use std::fmt;

/// The shape of a guest. Each socket is one L3.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    pub name: &'static str,
    pub sockets: u32,
    /// Cores of each socket.
    pub cores: u32,
    /// Hardware threads of each core.
    pub threads: u32,
    /// NUMA nodes; the sockets are dealt out evenly to them.
    pub nodes: u32,
    pub memory_mib: u32,
    /// The size of a disk for swap; 0: there is none.
    pub swap_mib: u32,
    /// Empty sockets, whose CPUs are possible and not online.
    pub empty_sockets: u32,
    /// Parameters of the kernel.
    pub parameters: &'static str,
    /// The accelerator, as `tools/boot --accel` takes it; empty: the best that there is.
    pub accel: &'static str,
    /// Whether its tests run only when asked for.
    pub on_demand: bool,
}

/// One L3, four CPUs.
pub const L3X1: Machine = Machine {
    name: "l3x1",
    sockets: 1,
    cores: 4,
    threads: 1,
    nodes: 1,
    memory_mib: 1024,
    swap_mib: 0,
    empty_sockets: 0,
    parameters: "",
    accel: "",
    on_demand: false,
};

/// Two L3s, four CPUs: the machine of the performance bars.
pub const L3X2: Machine = Machine {
    name: "l3x2",
    sockets: 2,
    cores: 2,
    threads: 1,
    nodes: 1,
    memory_mib: 1024,
    swap_mib: 0,
    empty_sockets: 0,
    parameters: "",
    accel: "",
    on_demand: false,
};

/// The same with memory for twenty thousand tasks, and a disk for swap: the machine of the rows of
/// docs/reliability.md.
pub const FAULTS: Machine = Machine { name: "faults", memory_mib: 3072, swap_mib: 2048, ..L3X2 };

/// The same with twice as many possible CPUs as there are.
pub const SPARE: Machine = Machine { name: "spare", empty_sockets: 2, ..L3X2 };

/// The same with a CPU kept from all schedulers since boot.
pub const ISOLCPUS: Machine = Machine { name: "isolcpus", parameters: "isolcpus=3", ..L3X2 };

/// The same with clocks that count instructions and do not jump, so that what tasks get of a CPU does
/// not depend on what else the host does.
pub const COUNTED: Machine =
    Machine { name: "counted", parameters: "tsc=reliable", accel: "icount", ..L3X2 };

/// The same on whatever kernel is asked for (`make test-kernels`).
pub const ANY_KERNEL: Machine = Machine { name: "any_kernel", on_demand: true, ..L3X2 };

/// The same on a kernel whose BTF is malformed (`make test-kernels`).
pub const MALFORMED: Machine = Machine { name: "malformed", on_demand: true, ..L3X2 };

/// The same for tests that take long, or many guests, and seldom fail (`make test-slow`).
pub const SLOW: Machine = Machine { name: "slow", on_demand: true, ..L3X2 };

/// Four L3s on two NUMA nodes, eight CPUs, two to a core.
pub const L3X4: Machine = Machine {
    name: "l3x4",
    sockets: 4,
    cores: 1,
    threads: 2,
    nodes: 2,
    memory_mib: 2048,
    swap_mib: 0,
    empty_sockets: 0,
    parameters: "",
    accel: "",
    on_demand: false,
};

/// Four L3s of sixteen CPUs, each on a NUMA node. It takes minutes, so its tests run when asked for
/// (`make test-large`).
pub const LARGE: Machine = Machine {
    name: "large",
    sockets: 4,
    cores: 16,
    threads: 1,
    nodes: 4,
    memory_mib: 4096,
    swap_mib: 0,
    empty_sockets: 0,
    parameters: "",
    accel: "",
    on_demand: true,
};

/// The machines of [`crate::cases`], in the sequence in which their guests are booted.
pub const ALL: [&Machine; 10] =
    [&L3X1, &L3X2, &L3X4, &SPARE, &ISOLCPUS, &COUNTED, &SLOW, &LARGE, &ANY_KERNEL, &MALFORMED];

impl Machine {
    pub fn cpus(&self) -> u32 {
        self.sockets * self.cores * self.threads
    }

    /// The shape as `tools/boot --shape` takes it.
    pub fn shape(&self) -> String {
        format!("{}x{}x{}", self.sockets, self.cores, self.threads)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} CPUs, {} L3, {} NUMA)", self.name, self.cpus(), self.sockets, self.nodes)
    }
}
