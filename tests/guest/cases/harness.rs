//! What the harness must not let pass: most of these have to fail, with what is named here. Those
//! that cost a guest run when asked for.

use crate::console;
use crate::machine::Machine;
use crate::suite::tests;
use anyhow::{Result, bail, ensure};
use std::fs;
use std::thread;
use std::time::Duration;

tests! {
    sees_an_error: 20 s on L3X1 => "it did not work";
    sees_a_panic: 20 s on L3X1 => "it was not meant to be";
    sees_a_hang: 3 s on SLOW => "hung for 3 s";
    sees_what_the_kernel_complains_of: 20 s on SLOW => "BUG: said by a test";
    tells_a_breakpoint_from_the_emulators_fault: 20 s on L3X1;
    has_another_guest_when_the_emulator_loses_one: 20 s on SLOW
        => "the emulator has lost every guest";
    sees_that_a_complaint_was_expected: 20 s on L3X1;
    sees_a_kernel_panic: 20 s on SLOW => "Kernel panic - not syncing: sysrq triggered crash";
}

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

pub fn sees_that_a_complaint_was_expected(machine: &Machine) -> Result<()> {
    console::expect("BUG: said by")?;
    sees_what_the_kernel_complains_of(machine)
}

pub fn sees_a_kernel_panic(_: &Machine) -> Result<()> {
    fs::write("/proc/sys/kernel/sysrq", "1")?;
    fs::write("/proc/sysrq-trigger", "c")?;
    Ok(())
}

/// The same as the emulator's fault, but with the breakpoint in memory: somebody put it there.
const BREAKPOINT: &str = "Oops: int3: 0000 [#1] SMP NOPTI
RIP: 0010:__schedule+0x1c5/0xcf0
Code: 18 0c 00 00 00 00 00 00 cc <1f> 44 00 00 4d 8b be";

pub fn tells_a_breakpoint_from_the_emulators_fault(_: &Machine) -> Result<()> {
    ensure!(!console::emulator_fault(BREAKPOINT));
    ensure!(!console::emulator_fault(
        &BREAKPOINT.replace("int3", "page fault").replace("cc", "0f")
    ));
    ensure!(console::emulator_fault(&BREAKPOINT.replace("cc", "0f")));
    Ok(())
}

/// Says it each time, so that no guest is left.
pub fn has_another_guest_when_the_emulator_loses_one(_: &Machine) -> Result<()> {
    for line in BREAKPOINT.replace("cc", "0f").lines() {
        fs::write("/dev/kmsg", format!("<3>{line}\n"))?;
    }
    Ok(())
}
