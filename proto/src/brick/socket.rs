//! What both ends of a Unix socket do with it.

use std::os::fd::AsFd;

use rustix::net::sockopt::{set_socket_send_buffer_size, set_socket_send_buffer_size_force};

use super::MAX_DATA;

/// Lets a whole message be sent before the other end has begun to read it (`SO_SNDBUF`, socket(7)). With the
/// kernel's usual 208 KiB both ends would wake each other several times for one of 1 MiB, which costs more
/// than to copy it.
pub fn widen(socket: impl AsFd) {
    let forced = set_socket_send_buffer_size_force(&socket, MAX_DATA);
    // Who may not force it gets what `net.core.wmem_max` allows; it works with less as well.
    let widened = forced.or_else(|_| set_socket_send_buffer_size(&socket, MAX_DATA));
    if let Err(error) = widened {
        tracing::debug!(%error, "a Unix socket keeps its small buffer");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_message_goes_into_a_socket_that_nobody_reads() {
        let (mut one, _other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let before = rustix::net::sockopt::socket_send_buffer_size(&one).unwrap();
        widen(&one);
        let after = rustix::net::sockopt::socket_send_buffer_size(&one).unwrap();
        assert!(after >= before, "{before} {after}");
        if rustix::process::geteuid().is_root() {
            let mut sent = 0;
            while let Ok(count) = one.write(&vec![0; MAX_DATA]) {
                sent += count;
            }
            assert!(sent >= MAX_DATA, "{sent}");
        }
    }
}
