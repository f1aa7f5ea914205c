//! Check of the socket unit: an address of `listen` that the unit is in the way of.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::problem;
use crate::config::Config;
use crate::config::options::Origin;
use crate::net::listen::ListenAddress;
use crate::resolver::Problem;

/// Checks that no address of the server conflicts with one of `mailslot.socket`, if that unit is
/// enabled.
pub fn check(config: &Config) -> Vec<Problem> {
    match config.origin("listen") {
        // The sockets of the unit are used instead.
        Origin::Default | Origin::Sandbox => Vec::new(),
        _ => collisions(&config.listen, Path::new(ENABLED)),
    }
}

/// Returns a problem for each wildcard in `listen` with the port of another address of `unit`.
fn collisions(listen: &[ListenAddress], unit: &Path) -> Vec<Problem> {
    let text = fs::read_to_string(unit).unwrap_or_default();
    let streams = text.lines().filter_map(|line| line.trim().strip_prefix("ListenStream="));
    // A port alone covers every address, so the server opens nothing else on it.
    let held: Vec<SocketAddr> = streams.filter_map(|text| text.trim().parse().ok()).collect();
    let mut found = Vec::new();
    for address in listen {
        let ListenAddress::Tcp { host, port, .. } = address else { continue };
        let Ok(ip) = host.parse::<IpAddr>() else { continue };
        let collides = |held: &&SocketAddr| {
            ip.is_unspecified()
                && held.port() == *port
                && !held.ip().is_unspecified()
                && (held.is_ipv4() == ip.is_ipv4() || ip.is_ipv6())
        };
        if let Some(held) = held.iter().find(collides) {
            found.push(problem(
                format!(
                    "listen {address} cannot be opened, because mailslot.socket holds {held} \
                     ({})",
                    unit.display()
                ),
                "systemctl disable --now mailslot.socket",
            ));
        }
    }
    found
}

/// The link that `systemctl enable mailslot.socket` creates.
const ENABLED: &str = "/etc/systemd/system/sockets.target.wants/mailslot.socket";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::assert_found;

    #[test]
    fn a_wildcard_beside_an_address_of_the_socket_unit_is_a_problem() {
        let unit = tempfile::NamedTempFile::new().unwrap();
        let found = |text: &str, listen: &str| {
            fs::write(unit.path(), text).unwrap();
            collisions(&[listen.parse().unwrap()], unit.path())
        };
        let shipped = include_str!("../../contrib/systemd/mailslot.socket");
        assert_found(&found(shipped, "0.0.0.0:25"), "holds 127.0.0.1:25", true);
        assert_found(&found(shipped, "[::]:25"), "holds 127.0.0.1:25", true);
        for listen in ["0.0.0.0:26", "127.0.0.1:25", "192.0.2.1:25", "unix:/run/x"] {
            assert_eq!(found(shipped, listen), [], "{listen}");
        }
        assert_eq!(found("[Socket]\nListenStream=25\n", "0.0.0.0:25"), []);
        assert_eq!(collisions(&["0.0.0.0:25".parse().unwrap()], Path::new("/nonexistent/x")), []);
    }
}
