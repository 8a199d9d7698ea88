//! Graphs of nodes, coordinated: which node starts when, how often it is tried again, and
//! what its end means for the others.
//!
//! [`graph`] checks a graph file, [`state`] is a task as a pure state machine, [`driver`]
//! performs what it asks for over the bus and the store. The wire is the one that
//! coordinators in the field speak.

pub mod graph;
mod node;
pub mod state;

pub use node::{Failure, NodeEvent, NodeOwner, NodeState, Stage};
