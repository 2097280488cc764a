//! A disk whose program is killed while it is written to, and what must be left.
//!
//! Writers change blocks of their own through a [`Medium`] each, beside each other in the same
//! clusters. A [`Ledger`] notes what was sent, what was answered, and what a flush that ended has
//! promised. After so many promises, which a seed names, the program is killed ([`Load`]).
//!
//! The host's page cache outlives the program. So this tells whether what was acknowledged had
//! left the program, and what the next one makes of a journal and of metadata that were left in
//! the middle; it cannot tell whether a sync was missing, which a power cut does.

mod fuse;
mod ledger;
mod load;

pub use ledger::{BLOCK_BYTES, Ledger, Verdict, content};
pub use load::{Change, Load, Medium};
