//! How outboxd is run: as the first process of a container, by a service manager, from the files in
//! deploy/.

mod arguments;
mod compose;
mod empty_root;
mod first;
mod image;
mod manifests;
mod notify;
mod room;
mod unit;
