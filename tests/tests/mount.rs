//! Images that are shown as raw files, to programs, file systems and loop devices on top.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "mount/file.rs"]
mod file;
#[path = "mount/holes.rs"]
mod holes;
#[path = "mount/inside.rs"]
mod inside;
#[path = "mount/killed.rs"]
mod killed;
#[path = "mount/life.rs"]
mod life;
#[path = "mount/loop_device.rs"]
mod loop_device;
#[path = "mount/package.rs"]
mod package;
#[path = "mount/places.rs"]
mod places;
#[path = "mount/refusals.rs"]
mod refusals;
#[path = "mount/setting.rs"]
mod setting;
#[path = "mount/users.rs"]
mod users;
