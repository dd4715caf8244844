// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
//! What the tests of RP-RAMFS share: memory that stands in for a region, a recorder of stores, a
//! reference model, the whole tree as a value.

pub mod alphabet;
pub mod anatomy;
pub mod baton;
pub mod checker;
pub mod crash;
pub mod env;
pub mod figures;
pub mod fixture;
pub mod forge;
pub mod golden;
pub mod harm;
pub mod host;
pub mod mem;
pub mod model;
pub mod mutant;
pub mod ops;
pub mod ordeal;
pub mod record;
pub mod script;
pub mod specimen;
pub mod stack;
pub mod steps;
pub mod tree;
pub mod workers;
