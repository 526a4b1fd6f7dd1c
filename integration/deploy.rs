//! How outboxd is run: as the first process of a container, by a service manager, from the files in
//! deploy/.

mod notify;
