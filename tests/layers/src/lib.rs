//! Checks that the sources keep the rules of ARCHITECTURE.md: who may see whom, where unsafe code
//! lives, how long a file gets, what no text says.
//!
//! Rules are data ([`table`]); checks are functions from text to sentences, so that the tests can
//! also show that each of them catches what it is for.

pub mod table;

pub mod tokens;

pub mod modules;

pub mod crates;

pub mod points;

pub mod text;

pub mod repository;
