//! What the harness must not let pass. [`crate::suite`] says how each of these fails.

use crate::machine::Machine;
use anyhow::{Result, bail};
use std::fs;
use std::thread;
use std::time::Duration;

pub fn sees_an_error(_: &Machine) -> Result<()> {
    bail!("it did not work")
}

pub fn sees_a_panic(_: &Machine) -> Result<()> {
    panic!("it was not meant to be")
}

pub fn sees_a_hang(_: &Machine) -> Result<()> {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

pub fn sees_what_the_kernel_complains_of(_: &Machine) -> Result<()> {
    fs::write("/dev/kmsg", "<3>BUG: said by a test\n")?;
    Ok(())
}

pub fn sees_a_kernel_panic(_: &Machine) -> Result<()> {
    fs::write("/proc/sys/kernel/sysrq", "1")?;
    fs::write("/proc/sysrq-trigger", "c")?;
    Ok(())
}
