//! The tests themselves. They run in the guest; [`crate::suite`] says on which machines.

pub mod guest;
