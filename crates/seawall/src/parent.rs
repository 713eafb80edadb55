//! Children that end with their parent, however the parent ends.

use std::io::Read;

/// Ends this process when standard input does. The parent holds the other end of that pipe and never writes: the pipe
/// closes when the parent exits, even by SIGKILL.
pub(crate) fn exit_with_parent() {
    let watch = || {
        let mut buffer = [0; 64];
        let mut input = std::io::stdin().lock();
        while !matches!(input.read(&mut buffer), Ok(0) | Err(_)) {}
        std::process::exit(0);
    };
    std::thread::Builder::new()
        .name("parent".to_owned())
        .spawn(watch)
        .expect("a process that just started can have one more thread");
}
