//! Finds the user of a loopback connection, for servers without a password.
//!
//! Guarantees: only connections of this process's user and of root are allowed. A connection whose owner
//! is not certain is not allowed.
//!
//! Source: `/proc/net/tcp` and `tcp6` (`Documentation/networking/proc_net_tcp.rst` of the Linux kernel).
//! The files are opened before the process is confined, and read again for each connection.
//!
//! Not here: passwords, and connections over other interfaces.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;

/// Tables of the TCP connections of this network namespace.
const TABLES: &[&str] = &["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// How often the tables are read. A table is read a page at a time, and a line can be missed while other
/// connections begin and end.
const ATTEMPTS: usize = 20;

/// Checks who opened a connection.
pub(crate) struct PeerCheck {
    tables: Vec<File>,
    user: u32,
}

impl PeerCheck {
    /// Opens the tables.
    pub(crate) fn open() -> io::Result<Self> {
        // Without IPv6 its table is missing.
        let tables: Vec<_> = TABLES
            .iter()
            .filter_map(|path| File::open(path).ok())
            .collect();
        if tables.is_empty() {
            return Err(io::Error::other(format!("cannot open {}", TABLES[0])));
        }
        Ok(Self {
            tables,
            user: rustix::process::geteuid().as_raw(),
        })
    }

    /// Returns whether the connection from `peer` to `own` belongs to an allowed user. Blocks shortly.
    pub(crate) fn allows(&self, peer: SocketAddr, own: SocketAddr) -> bool {
        (0..ATTEMPTS)
            .find_map(|_| self.owner(peer, own))
            .is_some_and(|user| user == 0 || user == self.user)
    }

    fn owner(&self, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
        self.tables
            .iter()
            .find_map(|table| owner(&read(table).ok()?, peer, own))
    }
}

fn read(table: &File) -> io::Result<String> {
    let mut text = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let filled = table.read_at(&mut buffer, text.len() as u64)?;
        if filled == 0 {
            return String::from_utf8(text).map_err(io::Error::other);
        }
        text.extend_from_slice(&buffer[..filled]);
    }
}

/// Finds the user of the socket at the end `peer` of a connection. A socket that its process has closed
/// has the inode 0, and the kernel may then report user 0; it has no owner.
fn owner(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
        let (user, inode) = (fields.get(7)?, fields.get(9)?);
        (local == plain(peer) && remote == plain(own) && *inode != "0")
            .then(|| user.parse().ok())
            .flatten()
    })
}

/// Reads `0100007F:1F90`: words of 32 bits in the machine's byte order, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..words.len()).step_by(8) {
        let word = u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(plain(SocketAddr::new(address, port)))
}

/// Writes an IPv4 address that a socket of IPv6 uses as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip @ IpAddr::V4(_) => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FBB 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11
   1: 0100007F:1FBB 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 12
   2: 0100007F:D431 0100007F:1FBB 01 00000000:00000000 00:00000000 00000000  1001        0 13
   3: 0000000000000000FFFF00000100007F:D432 0000000000000000FFFF00000100007F:1FBB 01 0:0 0:0 0  1002 0 14
   4: 0100007F:D433 0100007F:1FBB 04 00000000:00000000 00:00000000 00000000     0        0 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn owner_is_that_of_the_other_end_and_a_closed_socket_has_none() {
        let own = "127.0.0.1:8123".parse().unwrap();
        for (peer, expected) in [
            ("127.0.0.1:54321", Some(1001)),
            ("127.0.0.1:54322", Some(1002)),
            ("127.0.0.1:54323", None),
            ("127.0.0.1:1", None),
        ] {
            assert_eq!(owner(TABLE, peer.parse().unwrap(), own), expected, "{peer}");
        }
    }

    #[test]
    fn own_connections_are_allowed_and_unknown_ones_are_not() {
        let check = PeerCheck::open().unwrap();
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen) else {
                continue;
            };
            let own = listener.local_addr().unwrap();
            let client = TcpStream::connect(own).unwrap();
            let peer = client.local_addr().unwrap();
            assert!(check.allows(peer, own), "{listen}");
            let unknown = SocketAddr::new(peer.ip(), own.port());
            assert!(!check.allows(unknown, own));
        }
    }
}
