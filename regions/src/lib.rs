//! Where things are, who may answer whom, and which node is picked: plain functions over plain data.
//!
//! Nothing here opens a socket, reads a file or looks at a clock; `now` is an argument. Read in this order: places on the
//! globe ([`geo`]) and which of them a client's address belongs to ([`prefix`]), what may go where ([`policy`]), the fleet
//! as routers see it ([`topology`]), how each node feels ([`health`], [`load`]), and then the one decision made of all of
//! these ([`steer`]) with the words for it ([`explain`]) and a last word for the
//! content of what is asked ([`affinity`]). Nodes, which decide nothing of this, name others to those whom
//! they refuse ([`neighbours`]).

pub mod geo;
pub mod policy;
pub mod prefix;

pub mod health;
pub mod load;
pub mod topology;

pub mod affinity;
pub mod explain;
pub mod neighbours;
pub mod steer;
