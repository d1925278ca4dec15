//! One file per command.

pub(crate) mod abort;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod cutover;
pub(crate) mod daemon;
pub(crate) mod errors;
pub(crate) mod graph;
pub(crate) mod heal;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod mount;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod throttle;
