//! Checks of `mailslot.service`, which hides a part of the file system from the server.

use std::path::Path;

use super::problem;
use crate::config::Config;
use crate::resolver::Problem;
use crate::startup::ServiceUnit;

/// Checks that the service sees the files that `config` needs apart from mail and spool.
pub fn check(config: &Config, service: &ServiceUnit) -> Vec<Problem> {
    let homes = (config.forward_files && service.view.hides_homes).then(|| {
        problem(
            "forward-files: ProtectHome= of mailslot.service hides every ~/.forward".to_owned(),
            &drop_in("forward-files.conf"),
        )
    });
    let metrics = config.metrics_file.as_deref().and_then(Path::parent).filter(|directory| {
        let writable = service.view.writable.iter().any(|path| directory.starts_with(path));
        service.view.read_only && !writable
    });
    let metrics = metrics.map(|directory| {
        let shown = directory.display();
        let fix = if directory == Path::new(NODE_EXPORTER) {
            drop_in("metrics-file.conf")
        } else {
            format!("add ReadWritePaths={shown} to [Service] (systemctl edit mailslot)")
        };
        problem(format!("metrics-file: mailslot.service may not write to {shown}"), &fix)
    });
    homes.into_iter().chain(metrics).collect()
}

/// Returns the command that adds a drop-in of `contrib/systemd/drop-ins` to the service.
fn drop_in(name: &str) -> String {
    let installed = INSTALLED.iter().map(|directory| Path::new(directory).join(name));
    let file = installed.into_iter().find(|file| file.exists());
    let file = file.unwrap_or_else(|| Path::new("contrib/systemd/drop-ins").join(name));
    format!(
        "install -D -m 644 {} /etc/systemd/system/mailslot.service.d/{name} && \
         systemctl daemon-reload && systemctl restart mailslot",
        file.display()
    )
}

/// Directories in which `contrib/install` and packages install the drop-ins.
const INSTALLED: &[&str] = &["/usr/local/share/mailslot/systemd", "/usr/share/mailslot/systemd"];
/// The directory of the drop-in for a metrics file.
const NODE_EXPORTER: &str = "/var/lib/prometheus/node-exporter";
