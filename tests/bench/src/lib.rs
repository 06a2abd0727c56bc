//! What `ash-bench` is made of.

pub mod stats;

pub mod machine;

pub mod memory;

pub mod report;

pub mod alone;

pub mod files;

pub mod stage;

pub mod crowd;

pub mod figure;
