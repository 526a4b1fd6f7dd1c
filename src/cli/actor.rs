//! Who is acting, for the record of what operators did.

/// `user@host`, as the operating system and the shell have it: a label, not a proof.
pub(super) fn actor() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|user| !user.trim().is_empty());
    let user = named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = rustix::system::uname();
    format!("{}@{}", user.trim(), host.nodename().to_string_lossy())
}
