//! Several hosts in one machine: network namespaces, and a line from each to the server's.
//!
//! They have no names: they are gone with this process and those that it started in them.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::resume_unwind;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shell;
use crate::sys;

/// Where the server's host is, for all.
pub const SERVER: &str = "10.77.0.1";

/// A host: its network, that is. Files and mounts are the machine's.
pub struct Host {
    namespace: File,
}

impl Host {
    /// A host without any line.
    pub fn new() -> Host {
        let made = thread::spawn(|| {
            sys::leave_network()?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made
            .join()
            .unwrap()
            .unwrap_or_else(|error| panic!("no network namespace can be made: {error}"));
        let host = Host { namespace };
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// Does something there: sockets that it opens and processes that it starts are of this host.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.namespace.as_fd(), kind).unwrap();
                work()
            });
            there.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn ip(&self, arguments: &[&str]) {
        self.inside(|| shell::run("ip", arguments));
    }

    fn path(&self) -> String {
        let (process, file) = (std::process::id(), self.namespace.as_raw_fd());
        format!("/proc/{process}/fd/{file}")
    }
}

impl Default for Host {
    fn default() -> Host {
        Host::new()
    }
}

/// A server's host, and others with a line to it each.
pub struct Net {
    /// Reached at [`SERVER`].
    pub server: Host,
    /// The others.
    pub clients: Vec<Host>,
}

impl Net {
    /// So many hosts beside the server's.
    pub fn new(clients: usize) -> Net {
        let server = Host::new();
        let here = format!("{SERVER}/32");
        server.ip(&["address", "add", &here, "dev", "lo"]);
        let clients = 0..clients;
        let clients = clients.map(|at| {
            let (client, near) = (Host::new(), near_end(at));
            let far = client.path();
            let end = |last: u8| format!("10.77.{}.{last}", at + 1);
            let veth = ["link", "add", &near, "type", "veth", "peer", "name", "line"];
            server.ip(&veth);
            server.ip(&["link", "set", "line", "netns", &far]);
            server.ip(&["address", "add", &format!("{}/24", end(1)), "dev", &near]);
            server.ip(&["link", "set", &near, "up"]);
            client.ip(&["address", "add", &format!("{}/24", end(2)), "dev", "line"]);
            client.ip(&["link", "set", "line", "up"]);
            client.ip(&["route", "add", "default", "via", &end(1)]);
            client
        });
        let clients = clients.collect();
        Net { server, clients }
    }

    /// Nothing gets through any more between this client and the server, and neither is told. Start no
    /// process while this one has something open beyond the line: it would wait.
    pub fn cut(&self, client: usize) {
        self.switch(client, false);
    }

    /// The line is whole again.
    pub fn mend(&self, client: usize) {
        self.switch(client, true);
    }

    /// Without a process: as that began, it would close what this one has open beyond the line, and
    /// wait for it.
    fn switch(&self, client: usize, on: bool) {
        let name = near_end(client);
        let switch = || sys::switch_device(&name, on).unwrap();
        self.server.inside(switch);
    }
}

/// What the server's host calls its line to a client.
fn near_end(client: usize) -> String {
    format!("to-{client}")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn hosts_reach_the_server_by_lines_that_can_be_cut() {
        let net = Net::new(2);
        let listener = net
            .server
            .inside(|| TcpListener::bind((SERVER, 7)).unwrap());
        let address: SocketAddr = format!("{SERVER}:7").parse().unwrap();
        let connect = |client: &Host, patience| {
            client.inside(|| TcpStream::connect_timeout(&address, patience))
        };
        let soon = Duration::from_secs(30);
        let mut kept = connect(&net.clients[0], soon).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        net.cut(0);
        assert!(connect(&net.clients[0], Duration::from_millis(300)).is_err());
        connect(&net.clients[1], soon).unwrap();
        kept.write_all(b"x").unwrap();
        net.mend(0);
        served.set_read_timeout(Some(soon)).unwrap();
        served.read_exact(&mut [0]).unwrap();
    }
}
