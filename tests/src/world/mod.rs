//! Random work in a directory, with a reference model that says what must come of it.
//!
//! A [`Worker`] owns a directory. It picks an operation, does it for real, tells the
//! [`Model`], and reads back at once. When the mount dies under it, it waits until the directory
//! answers again, and accepts what it finds there only if nothing acknowledged is lost or
//! undone: the model's state, with the one operation that was under way done, not done, or (for
//! a write) done in part.

mod act;
mod choose;
mod held;
mod model;
mod observe;
mod operation;
mod worker;

pub use model::{Body, Model, Object};
pub use operation::Operation;
pub use worker::{Deaths, Options, Report, Worker, build, populate};
